// usage: make_sparse_checkpoint FOLDER LAYERS ROWS COLS SHARDS
// A model of LAYERS matrices of BF16, ROWS x COLS, and as many norms, in SHARDS files that take no
// disk: holes but for the first 64 KiB of each matrix. Knows nothing of nybble.
#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace {

[[noreturn]] void fail(const std::string& what) {
  std::perror(what.c_str());
  std::exit(1);
}

/// BF16 numbers of both signs, 2^-8 to 2^-4 in size.
std::vector<std::uint16_t> random_values(std::size_t count, std::uint32_t& seed) {
  std::vector<std::uint16_t> out(count);
  for (std::uint16_t& value : out) {
    seed = seed * 1664525U + 1013904223U;
    value = static_cast<std::uint16_t>((seed >> 31 << 15) | (119U + (seed >> 29 & 3U)) << 7 |
                                       (seed >> 20 & 127U));
  }
  return out;
}

void write_at(int file, std::size_t offset, const void* bytes, std::size_t count) {
  if (::pwrite(file, bytes, count, static_cast<off_t>(offset)) != static_cast<ssize_t>(count)) {
    fail("write");
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fputs("usage: make_sparse_checkpoint FOLDER LAYERS ROWS COLS SHARDS\n", stderr);
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  const std::size_t layers = std::strtoull(argv[2], nullptr, 10);
  const std::size_t rows = std::strtoull(argv[3], nullptr, 10);
  const std::size_t cols = std::strtoull(argv[4], nullptr, 10);
  const std::size_t shards = std::strtoull(argv[5], nullptr, 10);
  const std::size_t matrix = rows * cols * 2;
  const std::size_t norm = cols * 2;
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << "{\"model_type\": \"sparse\"}\n";
  std::ofstream index(folder / "model.safetensors.index.json");
  index << "{\"metadata\": {\"total_size\": " << layers * (matrix + norm) << "}, \"weight_map\": {";
  std::uint32_t seed = 1;
  for (std::size_t shard = 0; shard < shards; ++shard) {
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", shard + 1, shards);
    std::string header = "{\"__metadata__\": {\"format\": \"pt\"}";
    std::size_t position = 0;
    const auto add = [&](const std::string& tensor, const std::string& shape, std::size_t bytes) {
      header += ", \"" + tensor + "\": {\"dtype\": \"BF16\", \"shape\": " + shape +
                ", \"data_offsets\": [" + std::to_string(position) + ", " +
                std::to_string(position + bytes) + "]}";
      index << (position == 0 && shard == 0 ? "" : ", ") << '"' << tensor << "\": \"" << name
            << '"';
      position += bytes;
    };
    const std::size_t begin = layers * shard / shards;
    const std::size_t end = layers * (shard + 1) / shards;
    for (std::size_t layer = begin; layer < end; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer);
      add(prefix + ".mlp.up_proj.weight",
          "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]", matrix);
      add(prefix + ".input_layernorm.weight", "[" + std::to_string(cols) + "]", norm);
    }
    header += "}";
    const int file = ::open((folder / name).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (file < 0) fail(name);
    const std::uint64_t length = header.size();
    if (::ftruncate(file, static_cast<off_t>(8 + length + position)) != 0) fail(name);
    write_at(file, 0, &length, sizeof length);
    write_at(file, 8, header.data(), header.size());
    for (std::size_t layer = begin; layer < end; ++layer) {
      const std::size_t at = 8 + header.size() + (layer - begin) * (matrix + norm);
      const auto values =
          random_values(std::size_t{32768} < rows * cols ? 32768 : rows * cols, seed);
      write_at(file, at, values.data(), values.size() * 2);
      const auto ones = std::vector<std::uint16_t>(cols, 0x3F80);
      write_at(file, at + matrix, ones.data(), norm);
    }
    ::close(file);
  }
  index << "}}\n";
  return index.flush() ? 0 : 1;
}
