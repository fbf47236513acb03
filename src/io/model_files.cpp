#include "src/io/model_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>

#include "nybble/error.h"
#include "nybble/io/atomic_file.h"
#include "nybble/io/mapped_file.h"
#include "src/io/shard_index.h"

namespace nybble::io {

namespace {

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

/// The file's text, byte for byte, with `members`.
std::string config_text(const std::filesystem::path& folder, const JsonMembers& members) {
  const std::filesystem::path path = folder / kConfigName;
  if (!std::filesystem::exists(path)) return edit_python_json("{}\n", members);
  const MappedFile file(path);
  parse_python_json(file.bytes(), path.string());
  return edit_python_json({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()},
                          members);
}

bool says_something(const JsonMembers& members) {
  return std::any_of(members.begin(), members.end(),
                     [](const auto& member) { return !member.second.is_null(); });
}

}  // namespace

nlohmann::ordered_json read_model_config(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kConfigName;
  if (!std::filesystem::is_directory(folder) || !std::filesystem::exists(path)) {
    return nlohmann::ordered_json::object();
  }
  return read_python_json<nlohmann::ordered_json>(path);
}

std::vector<ModelFile> plan_model_files(const std::filesystem::path& folder,
                                        const JsonMembers& members) {
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
