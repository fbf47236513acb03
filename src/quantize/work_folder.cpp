#include "src/quantize/work_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <cerrno>
#include <fstream>
#include <limits>
#include <optional>

#include "nybble/error.h"
#include "nybble/io/atomic_file.h"
#include "src/io/positioned.h"

namespace nybble {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kName = ".nybble-parts";
constexpr const char* kManifest = "manifest.json";
constexpr const char* kLock = "lock";
constexpr const char* kJournal = "journal-";

/// Nothing where it is missing or damaged.
std::optional<json> read_json(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  json value = json::parse(file, nullptr, false);
  if (value.is_discarded()) return std::nullopt;
  return value;
}

void write_text(const fs::path& path, const std::string& text) {
  AtomicFile file(path);
  file.write(std::as_bytes(std::span(text)));
  file.commit();
}

/// The first difference, as "method: was rtn, is clip" or "source FILE was changed since".
std::string difference(const json& was, const json& is) {
  for (const auto& [key, value] : is.items()) {
    const json before = was.is_object() && was.contains(key) ? was[key] : json();
    if (before == value) continue;
    // A number of a clock that nobody reads.
    if (key == kModifiedKey) return "was changed since";
    if (value.is_object()) return fmt::format("{} {}", key, difference(before, value));
    return fmt::format("{}: was {}, is {}", key, before.dump(), value.dump());
  }
  return "something is missing that was there";
}

std::string journal_line(std::size_t tensor, const JournalEntry& entry) {
  return json({{"tensor", tensor},
               {"hash", entry.hash},
               {"signal", entry.error.signal},
               {"noise", entry.error.noise}})
             .dump() +
         "\n";
}

/// NaN and Inf are null in JSON.
double read_number(const json& value) {
  return value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

WorkFolder::WorkFolder(const fs::path& out) : path_(out / kName) {}

bool WorkFolder::exists() const { return fs::exists(path_); }

void WorkFolder::open(const json& manifest, bool resume) {
  if (!resume && fs::exists(path_)) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: a run was begun there and not finished: --resume continues it, "
                            "removing the folder gives it up",
                            path_.string()));
  }
  fs::create_directories(path_);
  const std::string lock = (path_ / kLock).string();
  lock_ = FileDescriptor(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (lock_.get() < 0) io::fail_errno(lock, "write", errno);
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    throw Error(ErrorCode::io, fmt::format("{}: another process is working in it", path_.string()));
  }
  const std::optional<json> before = read_json(path_ / kManifest);
  if (before && *before != manifest) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: cannot resume, {}; removing the folder gives the earlier run up",
                            path_.string(), difference(*before, manifest)));
  }
  for (const fs::path& file : fs::directory_iterator(path_)) {
    const std::string name = file.filename().string();
    const bool temporary = name.find(".tmp-") != std::string::npos;
    if (temporary || (!before && name != kLock)) fs::remove_all(file);
  }
  if (!before) write_text(path_ / kManifest, manifest.dump(1) + "\n");
}

fs::path WorkFolder::part(std::size_t tensor) const {
  return path_ / fmt::format("part-{:06}.safetensors", tensor);
}

std::map<std::size_t, JournalEntry> WorkFolder::read_journals() const {
  std::map<std::size_t, JournalEntry> out;
  for (const fs::path& path : fs::directory_iterator(path_)) {
    if (!path.filename().string().starts_with(kJournal)) continue;
    std::ifstream file(path, std::ios::binary);
    // A last line that a process could not end is no JSON.
    for (std::string line; std::getline(file, line);) {
      const json entry = json::parse(line, nullptr, false);
      if (!entry.is_object() || !entry.contains("tensor") || !entry.contains("hash") ||
          !entry.contains("signal") || !entry.contains("noise") ||
          !entry["tensor"].is_number_unsigned() || !entry["hash"].is_number_unsigned()) {
        continue;
      }
      out[entry["tensor"].get<std::size_t>()] = {
          entry["hash"].get<std::uint64_t>(),
          {read_number(entry["signal"]), read_number(entry["noise"])}};
    }
  }
  return out;
}

void WorkFolder::write_journal(const std::map<std::size_t, JournalEntry>& entries) {
  std::string text;
  for (const auto& [tensor, entry] : entries) text += journal_line(tensor, entry);
  const fs::path merged = path_ / fmt::format("{}0", kJournal);
  write_text(merged, text);
  for (const fs::path& path : fs::directory_iterator(path_)) {
    if (path.filename().string().starts_with(kJournal) && path != merged) fs::remove(path);
  }
}

void WorkFolder::append(std::size_t rank, std::size_t tensor, const JournalEntry& entry) {
  const std::string path = (path_ / fmt::format("{}{}", kJournal, rank)).string();
  if (journal_.get() < 0) {
    journal_ =
        FileDescriptor(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
    if (journal_.get() < 0) io::fail_errno(path, "write", errno);
  }
  const std::string line = journal_line(tensor, entry);
  io::append(journal_.get(), std::as_bytes(std::span(line)), path);
}

void WorkFolder::remove() {
  // First what makes it a run to be continued.
  fs::remove(path_ / kManifest);
  fs::remove_all(path_);
}

}  // namespace nybble
