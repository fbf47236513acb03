#include "src/io/model_files.h"

#include <fmt/format.h>

#include <algorithm>
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

ModelFiles plan_model_files(const std::filesystem::path& folder, const JsonMembers& members) {
  ModelFiles out;
  const bool is_folder = std::filesystem::is_directory(folder);
  if (is_folder) {
    for (FolderFile& file : list_folder_files(folder)) {
      if (!members.empty() && describes_quantization(file.name)) {
        file.kept_out = "describes another quantization";
      }
      if (file.kept_out.empty()) {
        out.files.push_back({std::move(file.name), {}, std::move(file.path), file.bytes});
      } else {
        out.kept_out.push_back(std::move(file));
      }
    }
  }
  if (says_something(members) || (is_folder && std::filesystem::exists(folder / kConfigName))) {
    std::string text = config_text(folder, members);
    const std::size_t bytes = text.size();
    out.files.push_back({kConfigName, std::move(text), {}, bytes});
  }
  std::sort(out.files.begin(), out.files.end(),
            [](const ModelFile& a, const ModelFile& b) { return a.name < b.name; });
  return out;
}

void write_model_file(const ModelFile& file, const std::filesystem::path& work,
                      const std::filesystem::path& folder) {
  std::filesystem::create_directories((work / file.name).parent_path());
  std::filesystem::create_directories((folder / file.name).parent_path());
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
