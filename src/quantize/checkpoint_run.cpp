#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>

#include "nybble/error.h"
#include "nybble/version.h"
#include "src/io/checked.h"
#include "src/quantize/checkpoint_plan.h"
#include "src/quantize/content_hash.h"
#include "src/quantize/file_rows.h"
#include "src/quantize/flushed_groups.h"
#include "src/quantize/run_executor.h"
#include "src/quantize/transposed_rows.h"
#include "src/quantize/work_folder.h"
#include "src/quantize/written_layer.h"

namespace nybble {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Clock = std::chrono::steady_clock;
using Done = std::map<std::size_t, JournalEntry>;
using Written = std::vector<std::vector<TensorToWrite>>;

constexpr std::size_t kPiece = std::size_t{1} << 20;
constexpr const char* kPartKey = "nybble.part";  // of a part's metadata: its error

double seconds_since(Clock::time_point begun) {
  return std::chrono::duration<double>(Clock::now() - begun).count();
}

class OneProcess final : public ProcessGroup {
 public:
  [[nodiscard]] std::size_t rank() const override { return 0; }
  [[nodiscard]] std::size_t size() const override { return 1; }
  void barrier(const std::function<void()>& check) override { check(); }
};

/// Calls action(begin, count) for the pieces of `bytes` bytes.
template <class Action>
void for_each_piece(std::size_t bytes, const Action& action) {
  for (std::size_t begin = 0; begin < bytes; begin += kPiece) {
    action(begin, std::min(kPiece, bytes - begin));
  }
}

json file_entry(const fs::path& path) {
  const auto modified = fs::last_write_time(path).time_since_epoch();
  return {{"name", path.filename().string()},
          {"bytes", fs::file_size(path)},
          {kModifiedKey, std::chrono::nanoseconds(modified).count()}};
}

/// What makes a run the one that was begun.
json manifest_of(const CheckpointPlan::Data& plan) {
  json out;
  out["version"] =
      fmt::format("{}.{}.{}", NYBBLE_VERSION_MAJOR, NYBBLE_VERSION_MINOR, NYBBLE_VERSION_PATCH);
  out["layout"] = plan.layout->name();
  out["shard size"] = plan.options.shard_bytes;
  json& tensors = out["tensor"] = json::object();
  for (const PlannedTensor& tensor : plan.tensors) {
    tensors[tensor.name] = !tensor.format ? "copied"
                                          : tensor.format->info().spec + " " + tensor.method +
                                                (tensor.transposed ? " transposed" : "");
  }
  json& source = out["source"] = json::object();
  for (const TensorFile& file : plan.source.files()) source[file.name()] = file_entry(file.name());
  json& calibration = out["calibration"] = json::object();
  for (const fs::path& file : plan.inputs.files()) calibration[file.string()] = file_entry(file);
  json& others = out["file"] = json::object();
  for (const io::ModelFile& file : plan.model_files) {
    others[file.name] = file.source.empty() ? json(file.text) : file_entry(file.source);
  }
  return out;
}

/// One process's share of the work, and what it needs for it.
class Run {
 public:
  Run(const CheckpointPlan::Data& plan, Executor& executor, const RunOptions& options)
      : plan_(plan),
        options_(options),
        executor_(executor, options.cancel),
        group_(options.group != nullptr ? *options.group : alone_),
        work_(options.out) {}

  CheckpointReport run() {
    const Clock::time_point begun = Clock::now();
    if (options_.resume && is_complete()) {
      for (std::size_t i = 0; i < plan_.tensors.size(); ++i) done_[i] = {};
      return report(begun);
    }
    if (first()) {
      check_output();
      fs::create_directories(options_.out);
      work_.open(manifest_of(plan_), options_.resume);
    }
    barrier();
    const Written written = make_parts();
    open_shards(written);
    fill_shards(written);
    if (first()) {
      done_ = work_.read_journals();
      for (const io::ModelFile& file : plan_.model_files) {
        io::write_model_file(file, work_.path(), options_.out);
      }
      writer_->finish();
      work_.remove();
    }
    barrier();
    return report(begun);
  }

 private:
  [[nodiscard]] bool first() const { return group_.rank() == 0; }
  void barrier() {
    group_.barrier([&] { executor_.check(); });
  }

  /// A run that died between its last rename and its end.
  bool is_complete() {
    if (!has_checkpoint(options_.out) || fs::exists(work_.path() / "manifest.json")) return false;
    if (!has_all_tensors()) return false;
    barrier();
    if (first() && work_.exists()) work_.remove();
    return true;
  }

  /// Whether the output has every tensor that the plan is sure of.
  [[nodiscard]] bool has_all_tensors() const {
    if (plan_.exact) {
      Written written;
      for (const CheckpointPlan::Data::Work& item : plan_.work) written.push_back(item.written);
      return has_shards(options_.out, shard_plan(plan_, written));
    }
    const TensorFiles files(options_.out);
    const auto is_there = [&](const TensorToWrite& tensor) {
      const TensorInfo* const found = files.find(tensor.name).tensor;
      return found != nullptr && found->type == tensor.type && found->dtype == tensor.dtype;
    };
    return std::all_of(plan_.work.begin(), plan_.work.end(), [&](const auto& item) {
      return std::all_of(item.written.begin(), item.written.end(), is_there);
    });
  }

  void check_output() const {
    if (!has_checkpoint(options_.out) || fs::exists(work_.path() / "manifest.json")) return;
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: holds a checkpoint already, expected a folder without one",
                            options_.out.string()));
  }

  /// Of the tensors in `pending`, those of this process: the largest first to whoever has least.
  [[nodiscard]] std::vector<std::size_t> share(std::vector<std::size_t> pending) const {
    constexpr std::size_t kQuantizing = 4;  // is so much dearer than copying
    const auto cost = [&](std::size_t i) {
      return plan_.tensors[i].source_bytes * (plan_.tensors[i].format ? kQuantizing : 1);
    };
    std::stable_sort(pending.begin(), pending.end(),
                     [&](std::size_t a, std::size_t b) { return cost(a) > cost(b); });
    std::vector<std::size_t> load(group_.size());
    std::vector<std::size_t> mine;
    for (const std::size_t i : pending) {
      const auto least = std::min_element(load.begin(), load.end());
      *least += cost(i);
      if (static_cast<std::size_t>(least - load.begin()) == group_.rank()) mine.push_back(i);
    }
    std::sort(mine.begin(), mine.end());
    return mine;
  }

  void read_ahead(const std::vector<std::size_t>& list, std::size_t at) const {
    if (at >= list.size()) return;
    const TensorFiles::Entry& from = plan_.work[list[at]].from;
    from.file->will_need(*from.tensor);
  }

  /// `what` for each tensor of a list, with the next one being read ahead.
  template <class What>
  void for_each_tensor(const std::vector<std::size_t>& list, const What& what) {
    read_ahead(list, 0);
    for (std::size_t n = 0; n < list.size(); ++n) {
      executor_.check();
      read_ahead(list, n + 1);
      what(list[n]);
    }
  }

  struct Layer {
    StoredLayer stored;
    SquaredError error;
  };

  [[nodiscard]] std::unique_ptr<const WeightRows> rows_of(std::size_t index) const {
    const TensorFiles::Entry& from = plan_.work[index].from;
    if (!plan_.tensors[index].transposed) {
      return std::make_unique<FileRows>(*from.file, *from.tensor);
    }
    return std::make_unique<TransposedRows>(*from.file, *from.tensor);
  }

  Layer quantize(std::size_t index) {
    const PlannedTensor& tensor = plan_.tensors[index];
    const CheckpointPlan::Data::Work& item = plan_.work[index];
    const std::unique_ptr<const WeightRows> source = rows_of(index);
    const WeightRows& rows = *source;
    Layer out{{item.layer, tensor.shape, QuantizedMatrix(*tensor.format), {}}, {}};
    if (tensor.method == "rtn") {
      out.stored.weight =
          quantize_rtn(rows, *tensor.format, executor_, {.tensor_name = tensor.name}, &out.error);
      refuse_flushed(rows, *tensor.format, out.stored.weight.tensor, out.error.signal, tensor.name,
                     executor_);
      return out;
    }
    std::optional<Calibration> calibration;
    if (item.method->calibrated()) {
      calibration = plan_.inputs.read(item.layer, rows.cols(), executor_);
    }
    QuantizedLayer layer = quantize_layer(
        all_values(rows, executor_), rows.rows(), rows.cols(), *tensor.format, *item.method,
        calibration ? &*calibration : nullptr, executor_, {.name = tensor.name});
    out.stored.weight = std::move(layer.weight);
    out.stored.transforms = std::move(layer.transforms);
    out.error = squared_error(rows, out.stored.weight, out.stored.transforms, executor_);
    return out;
  }

  /// Layers that may grow transforms, each in a file of its own, and what all tensors become.
  Written make_parts() {
    std::vector<std::size_t> pending;
    for (std::size_t i = 0; i < plan_.tensors.size(); ++i) {
      if (!plan_.tensors[i].exact && !fs::exists(work_.part(i))) pending.push_back(i);
    }
    barrier();  // all have looked before one appears
    const std::vector<std::size_t> mine = share(pending);
    resumed_ = plan_.tensors.size() - pending.size();
    std::vector<std::size_t> later;
    for (std::size_t i = 0; i < plan_.tensors.size(); ++i) {
      if (plan_.tensors[i].exact) later.push_back(i);
    }
    expect(mine);
    expect(share(later));
    for_each_tensor(mine, [&](std::size_t i) { make_part(i); });
    barrier();
    Written written;
    for (std::size_t i = 0; i < plan_.tensors.size(); ++i) {
      if (plan_.tensors[i].exact) {
        written.push_back(plan_.work[i].written);
        continue;
      }
      const TensorFile part(work_.part(i));
      written.emplace_back();
      for (const TensorInfo& tensor : part.tensors()) {
        written.back().push_back({tensor.name, tensor.type, tensor.shape, {}});
      }
      if (written.back().empty()) continue;
      written.back()[0].metadata = part.metadata();
      written.back()[0].metadata.erase(kPartKey);
    }
    return written;
  }

  void make_part(std::size_t i) {
    const Clock::time_point begun = Clock::now();
    const Layer layer = quantize(i);
    const io::WrittenLayer written = plan_.layout->write(layer.stored);
    SafetensorsWriter part(work_.part(i));
    std::size_t bytes = 0;
    for (const io::OwnedTensor& tensor : written.tensors) {
      part.add(tensor.name, tensor.type, tensor.shape, tensor.bytes);
      bytes += tensor.bytes.size();
    }
    for (const auto& [key, value] : written.metadata) part.set_metadata(key, value);
    part.set_metadata(kPartKey, json({layer.error.signal, layer.error.noise}).dump());
    part.finish();
    tell(i, begun, layer.error, bytes);
  }

  /// Creates the shards or finds them, with what is in them.
  void open_shards(const Written& written) {
    for (const auto& tensors : written) {
      first_.push_back(first_.empty() ? 0 : first_.back() + counts_.back());
      counts_.push_back(tensors.size());
    }
    const auto open = [&] {
      writer_.emplace(options_.out, shard_plan(plan_, written), work_.path());
    };
    if (first()) {
      open();
      work_.write_journal(writer_->found() ? verified(work_.read_journals()) : Done());
    }
    barrier();
    if (!first()) open();
    done_ = work_.read_journals();
    barrier();  // all have read the journals before one grows
  }

  /// Those whose bytes are what the journal says: power can fail between two writes.
  Done verified(Done done) {
    std::vector<std::byte> buffer(kPiece);
    std::erase_if(done, [&](const auto& item) {
      executor_.check();
      if (item.first >= plan_.tensors.size()) return true;
      ContentHash hash;
      for (std::size_t t = first_[item.first]; t < first_[item.first] + counts_[item.first]; ++t) {
        for_each_piece(writer_->plan().places[t].bytes, [&](std::size_t begin, std::size_t count) {
          const std::span<std::byte> piece(buffer.data(), count);
          writer_->read(t, begin, piece);
          hash.add(piece);
        });
      }
      return hash.value() != item.second.hash;
    });
    return done;
  }

  void fill_shards(const Written& written) {
    std::vector<std::size_t> pending;
    for (std::size_t i = 0; i < plan_.tensors.size(); ++i) {
      if (!done_.contains(i)) pending.push_back(i);
    }
    const std::vector<std::size_t> mine = share(pending);
    // What an earlier run did is not to be expected any more.
    progress_.total = progress_.done;
    progress_.total_bytes = progress_.done_bytes;
    expect(mine);
    for (const std::size_t i : pending) resumed_ -= plan_.tensors[i].exact ? 1 : 0;
    for_each_tensor(mine, [&](std::size_t i) {
      const Clock::time_point begun = Clock::now();
      if (!plan_.tensors[i].exact || !plan_.tensors[i].format) {
        const JournalEntry entry = copy(i);
        work_.append(group_.rank(), i, entry);
        if (plan_.tensors[i].exact) tell(i, begun, entry.error, plan_.tensors[i].bytes);
        return;
      }
      if (!fits_beside(i)) finish_writing();
      Layer layer = quantize(i);
      finish_writing();
      writing_.emplace(Writing{i, begun, std::move(layer)});
      executor_.do_beside_next([&] { write_layer(written[writing_->tensor]); });
    });
    finish_writing();
    writer_->flush();
    barrier();
  }

  /// A layer whose bytes are being written while the next one is quantized.
  struct Writing {
    std::size_t tensor;
    Clock::time_point begun;
    Layer layer;
  };

  /// Whether there is memory for what is being written besides what this layer needs: twice its
  /// bytes, which round to nearest makes up for by reading a few rows at a time.
  [[nodiscard]] bool fits_beside(std::size_t i) const {
    constexpr std::size_t kAlways = std::size_t{24} << 20;
    return !writing_ || plan_.tensors[i].method == "rtn" ||
           plan_.tensors[writing_->tensor].bytes <= kAlways;
  }

  /// What is being written is there now, and told about.
  void finish_writing() {
    executor_.finish_beside();
    if (!writing_) return;
    const Writing written = *std::exchange(writing_, std::nullopt);
    tell(written.tensor, written.begun, written.layer.error, plan_.tensors[written.tensor].bytes);
  }

  void write_layer(const std::vector<TensorToWrite>& planned) {
    const std::size_t i = writing_->tensor;
    const io::WrittenLayer layer = plan_.layout->write(writing_->layer.stored);
    if (!same_tensors(tensors_of(layer), planned)) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{}: layout '{}' made other tensors of it than planned",
                              plan_.tensors[i].name, plan_.layout->name()));
    }
    ContentHash hash;
    for (std::size_t t = 0; t < planned.size(); ++t) {
      const std::span<const std::byte> bytes = layer.tensors[t].bytes;
      for_each_piece(bytes.size(), [&](std::size_t begin, std::size_t count) {
        const std::span<const std::byte> piece = bytes.subspan(begin, count);
        writer_->write(first_[i] + t, begin, piece);
        hash.add(piece);
      });
      writer_->begin_flush(first_[i] + t);
    }
    work_.append(group_.rank(), i, {hash.value(), writing_->layer.error});
  }

  /// A tensor that is copied, or one whose part was made before.
  JournalEntry copy(std::size_t i) {
    JournalEntry entry;
    ContentHash hash;
    if (plan_.tensors[i].exact) {
      copy(*plan_.work[i].from.file, *plan_.work[i].from.tensor, first_[i], hash);
    } else {
      const TensorFile part(work_.part(i));
      for (std::size_t t = 0; t < part.tensors().size(); ++t) {
        copy(part, part.tensors()[t], first_[i] + t, hash);
      }
      const json error = json::parse(part.metadata().at(kPartKey));
      const auto number = [&](std::size_t at) {
        return error[at].is_number() ? error[at].get<double>()
                                     : std::numeric_limits<double>::quiet_NaN();
      };
      entry.error = {number(0), number(1)};
    }
    entry.hash = hash.value();
    return entry;
  }

  void copy(const TensorFile& file, const TensorInfo& from, std::size_t to, ContentHash& hash) {
    buffer_.resize(std::max(buffer_.size(), std::min(kPiece, from.bytes)));
    for_each_piece(from.bytes, [&](std::size_t begin, std::size_t count) {
      executor_.check();
      const std::span<std::byte> piece(buffer_.data(), count);
      file.read(from, begin, piece);
      writer_->write(to, begin, piece);
      hash.add(piece);
    });
    writer_->begin_flush(to);
  }

  /// Counts what is going to be told about: parts are when they are made, not when they are copied.
  void expect(const std::vector<std::size_t>& list) {
    const bool shards_open = writer_.has_value();
    for (const std::size_t i : list) {
      if (shards_open && !plan_.tensors[i].exact) continue;
      ++progress_.total;
      progress_.total_bytes += plan_.tensors[i].source_bytes;
    }
  }

  void tell(std::size_t i, Clock::time_point begun, const SquaredError& error, std::size_t bytes) {
    const PlannedTensor& tensor = plan_.tensors[i];
    ++progress_.done;
    progress_.done_bytes += tensor.source_bytes;
    progress_.tensor = &tensor;
    progress_.seconds = seconds_since(begun);
    progress_.sqnr_db = tensor.format ? error.sqnr_db() : std::numeric_limits<double>::quiet_NaN();
    progress_.bytes = bytes;
    if (options_.on_tensor) options_.on_tensor(progress_);
  }

  CheckpointReport report(Clock::time_point begun) const {
    CheckpointReport out;
    SquaredError error;
    for (std::size_t i = 0; i < plan_.tensors.size(); ++i) {
      const PlannedTensor& tensor = plan_.tensors[i];
      ++out.tensors;
      out.source_bytes += tensor.source_bytes;
      if (!tensor.format) continue;
      ++out.quantized;
      out.weights += tensor.elements();
      if (writer_) {
        for (std::size_t t = first_[i]; t < first_[i] + counts_[i]; ++t) {
          out.weight_bytes += writer_->plan().places[t].bytes;
        }
      } else {
        out.weight_bytes += tensor.bytes;
      }
      const auto found = done_.find(i);
      if (found != done_.end()) error += found->second.error;
    }
    out.resumed = writer_ ? resumed_ : out.tensors;
    for (const PlannedFile& file : plan_.files) out.bytes += file.bytes;
    if (writer_ && !plan_.exact) {
      out.bytes = writer_->plan().index.size();
      for (const ShardPlan::File& file : writer_->plan().files) out.bytes += file.bytes;
      for (const io::ModelFile& file : plan_.model_files) out.bytes += file.bytes;
    }
    out.sqnr_db = error.signal == 0 && error.noise == 0 ? std::numeric_limits<double>::quiet_NaN()
                                                        : error.sqnr_db();
    out.processed_bytes = progress_.done_bytes;
    out.seconds = seconds_since(begun);
    return out;
  }

  const CheckpointPlan::Data& plan_;
  const RunOptions& options_;
  RunExecutor executor_;
  OneProcess alone_;
  ProcessGroup& group_;
  WorkFolder work_;
  std::optional<ShardedWriter> writer_;
  std::vector<std::size_t> first_, counts_;  ///< of a tensor: its place among all written
  Done done_;
  std::optional<Writing> writing_;
  std::vector<std::byte> buffer_;
  TensorDone progress_;
  std::size_t resumed_ = 0;
};

}  // namespace

CheckpointReport quantize_checkpoint(const CheckpointPlan& plan, Executor& executor,
                                     const RunOptions& options) {
  return Run(plan.data(), executor, options).run();
}

}  // namespace nybble
