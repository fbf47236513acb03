#include "output.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <set>
#include <system_error>

#include "nybble/error.h"
#include "nybble/io/atomic_file.h"
#include "nybble/io/safetensors.h"

namespace nybble::cli {

void print_json(const Json& json) {
  fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void add_json_option(CLI::App& command, bool& json) {
  command.add_flag("--json", json, "Print JSON");
}

void add_threads_option(CLI::App& command, std::size_t& threads) {
  constexpr std::size_t kMostThreads = 1024;
  command.add_option("--threads", threads, "Threads (default: the CPUs this process may use)")
      ->check(CLI::Range(std::size_t{0}, kMostThreads));
}

namespace {

/// Throws bad_option if writing `path` would replace what is read: the input under any name, or the
/// weights or config of a folder.
void refuse_input(const std::string& path, const std::string& input) {
  namespace fs = std::filesystem;
  std::error_code missing;  // usually: there is no file to replace yet
  const auto refuse_if = [&](const fs::path& file) {
    if (!fs::equivalent(path, file, missing)) return;
    throw Error(
        ErrorCode::bad_option,
        fmt::format("{}: is the input {}, expected another file to write", path, file.string()));
  };
  refuse_if(input);
  if (!fs::is_directory(input, missing)) return;
  for (const auto& entry : fs::directory_iterator(input)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".safetensors" || extension == ".gguf" ||
        entry.path().filename() == "config.json") {
      refuse_if(entry.path());
    }
  }
}

}  // namespace

void check_writable(const std::vector<std::string>& paths, const std::vector<std::string>& inputs) {
  std::set<std::string> targets;
  for (const std::string& path : paths) {
    if (path.empty()) continue;
    for (const std::string& input : inputs) {
      if (!input.empty()) refuse_input(path, input);
    }
    if (!targets.insert(std::filesystem::weakly_canonical(path).string()).second) {
      throw Error(ErrorCode::bad_option, fmt::format("{}: named for two outputs", path));
    }
    // Opened and given up: a place that cannot be written fails now, with nothing written yet.
    const AtomicFile probe(path);
  }
}

void warn_ignored_index(const std::string& path) {
  const std::string index = ignored_index(path);
  if (index.empty()) return;
  fmt::print(stderr, "nybble: warning: {}\n",
             one_line(index + " is ignored: model.safetensors is beside it"));
}

int exit_code(const std::exception& error) {
  constexpr int kInternalError = 1;
  constexpr int kUsageError = 2;
  constexpr int kInputError = 3;
  constexpr int kInterrupted = 128 + SIGINT;
  if (dynamic_cast<const CLI::ParseError*>(&error) != nullptr) return kUsageError;
  // From std::filesystem, or from fmt::print.
  if (dynamic_cast<const std::system_error*>(&error) != nullptr) return kInputError;
  const auto* const known = dynamic_cast<const Error*>(&error);
  if (known == nullptr) return kInternalError;
  switch (known->code()) {
    case ErrorCode::bad_option:
    case ErrorCode::unsupported:
      return kUsageError;
    case ErrorCode::cancelled:
      return kInterrupted;
    default:
      return kInputError;
  }
}

std::string error_text(const std::exception& error) {
  const auto* const refused = dynamic_cast<const std::filesystem::filesystem_error*>(&error);
  if (refused == nullptr) return one_line(error.what());
  return one_line(fmt::format("{}: {}", refused->path1().string(), refused->code().message()));
}

std::size_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

const char* layout_name(ScaleLayout layout) {
  switch (layout) {
    case ScaleLayout::symmetric:
      return "symmetric";
    case ScaleLayout::zero_point:
      return "zero_point";
    case ScaleLayout::sign_split:
      return "sign_split";
  }
  return "?";
}

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out;
}

std::string shape_text(std::span<const std::size_t> shape) {
  return shape.empty() ? "scalar" : fmt::format("{}", fmt::join(shape, " x "));
}

void finish(bool good) {
  if (!good) throw CLI::RuntimeError(1);
}

std::string exit_codes(const std::string& bad) {
  return fmt::format("Exit codes: 0 {}\n            2 bad usage, 3 bad input.", bad);
}

std::string one_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  return text;
}

}  // namespace nybble::cli
