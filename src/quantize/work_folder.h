#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "nybble/io/file_descriptor.h"
#include "src/quantize/weight_rows.h"

namespace nybble {

/// In a manifest: when a file was changed last, by the clock of the file system.
constexpr const char* kModifiedKey = "modified_ns";

/// A tensor that is in its place among the shards.
struct JournalEntry {
  std::uint64_t hash = 0;  ///< of its bytes, as content_hash makes it
  SquaredError error;      ///< of the weights; 0 where it was copied
};

/// What a run keeps in the folder `.nybble-parts` of its output until it is done, so that a later
/// one can continue: a manifest that says what the run was, the shards as far as they are written,
/// a journal a process of the tensors that are in them, and parts: layers whose size is not known
/// before they are done.
class WorkFolder {
 public:
  explicit WorkFolder(const std::filesystem::path& out);

  /// For the first process of a group: takes possession, until this object ends, and sees to it
  /// that the folder belongs to the run that `manifest` describes. What processes that died were
  /// just writing is removed. Throws bad_option where there is one and `resume` is false, or its
  /// manifest is another, naming the difference; io where another process has it.
  void open(const nlohmann::json& manifest, bool resume);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] bool exists() const;
  [[nodiscard]] std::filesystem::path part(std::size_t tensor) const;

  /// What all journals say, by the number of the tensor.
  [[nodiscard]] std::map<std::size_t, JournalEntry> read_journals() const;
  /// Makes that all that the journals say.
  void write_journal(const std::map<std::size_t, JournalEntry>& entries);
  /// Adds a line to the journal of this process.
  void append(std::size_t rank, std::size_t tensor, const JournalEntry& entry);

  /// When everything is where it belongs.
  void remove();

 private:
  std::filesystem::path path_;
  FileDescriptor lock_, journal_;
};

}  // namespace nybble
