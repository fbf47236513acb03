#include "src/io/model_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>

#include "nybble/error.h"
#include "nybble/io/atomic_file.h"
#include "nybble/io/mapped_file.h"
#include "src/io/shard_index.h"
#include "src/io/strict_json.h"

namespace nybble::io {

namespace {

using nlohmann::ordered_json;

constexpr std::size_t kConfigDepth = 64;

bool describes_quantization(const std::string& name) {
  return std::find(std::begin(kSideConfigs), std::end(kSideConfigs), name) !=
         std::end(kSideConfigs);
}

bool is_copied(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  if (name == kConfigName || name == kIndexName) return false;
  const std::string extension = path.extension().string();
  return name.starts_with("tokenizer") || extension == ".json" || extension == ".txt" ||
         extension == ".model" || extension == ".jinja";
}

/// Keys keep their order. A config that needs no change stays as it is, byte for byte.
std::string config_text(const std::filesystem::path& folder, const ConfigMembers& members) {
  ordered_json config = read_model_config(folder);
  const bool changes = std::any_of(members.begin(), members.end(), [&](const auto& member) {
    return !member.second.is_null() || config.contains(member.first);
  });
  if (!changes && std::filesystem::exists(folder / kConfigName)) {
    const MappedFile file(folder / kConfigName);
    return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
  }
  for (const auto& [key, value] : members) {
    config.erase(key);
    if (!value.is_null()) config[key] = value;
  }
  return config.dump(2) + "\n";
}

bool says_something(const ConfigMembers& members) {
  return std::any_of(members.begin(), members.end(),
                     [](const auto& member) { return !member.second.is_null(); });
}

}  // namespace

ordered_json read_model_config(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kConfigName;
  if (!std::filesystem::is_directory(folder) || !std::filesystem::exists(path)) {
    return ordered_json::object();
  }
  const MappedFile file(path);
  parse_strict_json(file.bytes(), path.string(), kConfigDepth);
  const auto* const text = reinterpret_cast<const char*>(file.bytes().data());
  return ordered_json::parse(text, text + file.bytes().size());
}

std::vector<ModelFile> plan_model_files(const std::filesystem::path& folder,
                                        const ConfigMembers& members) {
  std::vector<ModelFile> out;
  if (!std::filesystem::is_directory(folder)) {
    if (!says_something(members)) return out;
    out.push_back({kConfigName, config_text(folder, members), {}, 0});
  } else {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (!entry.is_regular_file() || !is_copied(entry.path())) continue;
      if (!members.empty() && describes_quantization(name)) continue;
      out.push_back({name, {}, entry.path(), entry.file_size()});
    }
    if (says_something(members) || std::filesystem::exists(folder / kConfigName)) {
      out.push_back({kConfigName, config_text(folder, members), {}, 0});
    }
  }
  for (ModelFile& file : out) {
    if (file.source.empty()) file.bytes = file.text.size();
  }
  std::sort(out.begin(), out.end(),
            [](const ModelFile& a, const ModelFile& b) { return a.name < b.name; });
  return out;
}

void write_model_file(const ModelFile& file, const std::filesystem::path& work,
                      const std::filesystem::path& folder) {
  AtomicFile out(work / file.name);
  if (file.source.empty()) {
    out.write(std::as_bytes(std::span(file.text)));
  } else {
    std::ifstream in(file.source, std::ios::binary);
    std::array<char, 65536> buffer;
    while (in.read(buffer.data(), buffer.size()), in.gcount() > 0) {
      out.write(std::as_bytes(std::span(buffer.data(), static_cast<std::size_t>(in.gcount()))));
    }
    if (!in.eof()) {
      throw Error(ErrorCode::io, fmt::format("{}: cannot read", file.source.string()));
    }
  }
  out.commit();
  std::filesystem::rename(out.target(), folder / file.name);
}

}  // namespace nybble::io
