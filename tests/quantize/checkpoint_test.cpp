#include "nybble/quantize/checkpoint.h"

#include <gtest/gtest.h>

#include <barrier>
#include <cmath>
#include <fstream>
#include <limits>
#include <thread>

#include "nybble/error.h"
#include "nybble/io/npy.h"
#include "nybble/io/quantized_checkpoint.h"
#include "nybble/quantize/method.h"
#include "nybble/quantize/rtn.h"
#include "src/quantize/file_rows.h"
#include "tests/io/temporary_folder.h"
#include "tests/quantize/checkpoint_model.h"
#include "tests/support/all_specs.h"
#include "tests/support/thread_executor.h"

namespace nybble {
namespace {

using test::expect_error;

const std::vector<test::ModelTensor>& some_tensors() {
  static const std::vector<test::ModelTensor> tensors = {
      {"embed.weight", {64, 64}, TensorType::f32},
      {"layers.0.q_proj.weight", {96, 64}, TensorType::bf16},
      {"layers.0.q_proj.bias", {96}, TensorType::bf16},
      {"layers.0.k_proj.weight", {32, 64}, TensorType::f16},
      {"layers.1.up_proj.weight", {64, 128}, TensorType::f32},
      {"layers.1.down_proj.weight", {128, 64}, TensorType::f64},
  };
  return tensors;
}

/// Every file of a folder, by name; not those of folders inside it.
std::map<std::string, std::string> contents(const std::filesystem::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    out[entry.path().filename().string()] =
        entry.is_regular_file() ? test::read_text(entry.path()) : "a folder";
  }
  return out;
}

class QuantizeCheckpoint : public testing::Test {
 protected:
  void SetUp() override {
    test::write_model(folder_ / "model.safetensors", some_tensors());
    options_.source = folder_ / "model.safetensors";
    options_.format = "int4";
    options_.shard_bytes = 8000;
  }
  std::map<std::string, std::string> run(const std::string& out, RunOptions run_options = {}) {
    run_options.out = folder_ / out;
    report_ = quantize_checkpoint(CheckpointPlan(options_), executor_, run_options);
    return contents(folder_ / out);
  }
  /// Stops after `count` tensors.
  void run_some(const std::string& out, std::size_t count, bool resume = false) {
    std::atomic<bool> cancel = false;
    expect_error(ErrorCode::cancelled, {"interrupted"}, [&] {
      run(out, {.resume = resume, .cancel = &cancel, .on_tensor = [&](const TensorDone& done) {
                  if (done.done == count) cancel = true;
                }});
    });
  }

  test::TemporaryFolder folder_;
  CheckpointOptions options_;
  test::ThreadExecutor executor_{3};
  CheckpointReport report_;
};

TEST_F(QuantizeCheckpoint, GivesWhatQuantizingEachTensorGives) {
  options_.rules = {{"*.up_proj", "nvfp4", {}, false},
                    {"*.down_proj", "nf4:double=true", {}, false}};
  std::vector<std::string> told;
  run("out", {.on_tensor = [&](const TensorDone& done) { told.push_back(done.tensor->name); }});
  EXPECT_EQ(told.size(), some_tensors().size());
  const QuantizedCheckpoint checkpoint(folder_ / "out");
  EXPECT_EQ(checkpoint.layers().size(), 4u);
  for (const test::ModelTensor& tensor : some_tensors()) {
    const std::vector<float> values = test::model_values(tensor);
    if (tensor.name.ends_with(".bias") || tensor.name.starts_with("embed")) {
      EXPECT_EQ(checkpoint.read_f32(tensor.name), values);
      continue;
    }
    const StoredLayer layer = checkpoint.read(tensor.name.substr(0, tensor.name.size() - 7));
    EXPECT_EQ(layer.shape, tensor.shape);
    const QuantizedMatrix expected = quantize_rtn({values.data(), tensor.shape[0], tensor.shape[1]},
                                                  layer.weight.format, executor_);
    EXPECT_EQ(layer.weight.codes, expected.codes) << tensor.name;
    EXPECT_EQ(layer.weight.scales, expected.scales) << tensor.name;
    EXPECT_EQ(layer.weight.nested_scales, expected.nested_scales) << tensor.name;
    EXPECT_EQ(layer.weight.tensor.scale, expected.tensor.scale) << tensor.name;
  }
}

TEST_F(QuantizeCheckpoint, MakesFilesOfTheSizesPlannedInEveryLayout) {
  for (const std::string& layout : layout_names()) {
    for (const char* format : {"int4", "int4:group=64,zero_point=true", "fp4", "fp4_bnb", "mxfp4",
                               "nf4:double=true", "nvfp4", "amxfp4"}) {
      options_.layout = layout;
      options_.format = format;
      std::optional<CheckpointPlan> plan;
      try {
        plan.emplace(options_);
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), ErrorCode::unsupported) << layout << ": " << error.what();
        continue;
      }
      const auto files = run(layout + format);
      ASSERT_EQ(plan->exact(),
                layout != "bitsandbytes" || !std::string(format).ends_with("double=true"));
      std::map<std::string, std::size_t> sizes;
      for (const auto& [name, text] : files) sizes[name] = text.size();
      std::map<std::string, std::size_t> planned;
      std::size_t total = 0;
      for (const PlannedFile& file : plan->files()) {
        planned[file.name] = file.bytes;
        total += file.bytes;
      }
      if (plan->exact()) {
        EXPECT_EQ(sizes, planned) << layout << " " << format;
        EXPECT_EQ(report_.bytes, total);
      } else {
        EXPECT_GE(report_.bytes, total);
      }
      EXPECT_EQ(QuantizedCheckpoint(folder_ / (layout + format)).layers().size(), 4u)
          << layout << " " << format;
    }
  }
}

TEST_F(QuantizeCheckpoint, ReportsTheErrorOfTheWeights) {
  for (const char* format :
       {"int4", "int4:zero_point=true", "nf4:double=true", "nvfp4", "amxfp4"}) {
    options_.format = format;
    run(format);
    const QuantizedCheckpoint checkpoint(folder_ / format);
    double signal = 0;
    double noise = 0;
    for (const auto& entry : checkpoint.layers()) {
      const StoredLayer layer = checkpoint.read(entry.name);
      std::vector<float> decoded(layer.weight.rows * layer.weight.cols);
      dequantize(layer.weight, {decoded.data(), layer.weight.rows, layer.weight.cols}, executor_);
      const auto tensor = std::find_if(some_tensors().begin(), some_tensors().end(),
                                       [&](const test::ModelTensor& candidate) {
                                         return candidate.name == entry.name + ".weight";
                                       });
      const std::vector<float> values = test::model_values(*tensor);
      for (std::size_t i = 0; i < values.size(); ++i) {
        signal += std::pow(static_cast<double>(values[i]), 2);
        noise += std::pow(static_cast<double>(values[i] - decoded[i]), 2);
      }
    }
    // Sums of at most 512 f32 terms: each relative error is below 512 * 2^-24 = 3e-5, or 3e-4 dB.
    EXPECT_NEAR(report_.sqnr_db, 10 * std::log10(signal / noise), 3e-4) << format;
    EXPECT_EQ(report_.weights, 24576u);
  }
}

TEST_F(QuantizeCheckpoint, ResumesAfterAnyTensorWithTheSameBytes) {
  const auto expected = run("whole");
  EXPECT_EQ(report_.resumed, 0u);
  for (std::size_t count = 1; count < some_tensors().size(); ++count) {
    const std::string out = "after" + std::to_string(count);
    run_some(out, count);
    EXPECT_EQ(contents(folder_ / out),
              (std::map<std::string, std::string>{{".nybble-parts", "a folder"}}));
    EXPECT_EQ(run(out, {.resume = true}), expected);
    EXPECT_GE(report_.resumed, count);
    EXPECT_LE(report_.resumed, some_tensors().size()) << "one more may just have been written";
    EXPECT_FALSE(std::isnan(report_.sqnr_db));
  }
}

TEST_F(QuantizeCheckpoint, ResumesPartsOfUnknownSize) {
  options_.method = "hadamard+rtn";
  const auto expected = run("whole");
  const double sqnr_db = report_.sqnr_db;
  run_some("out", 1);
  run_some("out", 2, true);
  EXPECT_EQ(run("out", {.resume = true}), expected);
  EXPECT_GE(report_.resumed, 3u);
  EXPECT_EQ(report_.sqnr_db, sqnr_db);
  const StoredLayer layer = QuantizedCheckpoint(folder_ / "out").read("layers.1.up_proj");
  EXPECT_NE(layer.transforms.hadamard.block, 0u);
}

TEST_F(QuantizeCheckpoint, DoesATensorAgainWhoseBytesAreNotWhatTheJournalSays) {
  const auto expected = run("whole");
  run_some("out", 4);
  for (const auto& file : std::filesystem::directory_iterator(folder_ / "out/.nybble-parts")) {
    if (file.path().extension() != ".safetensors") continue;
    std::fstream shard(file.path(), std::ios::in | std::ios::out | std::ios::binary);
    shard.seekp(-1, std::ios::end);
    shard.put('?');
  }
  // A line that was not ended, too.
  std::ofstream(folder_ / "out/.nybble-parts/journal-0", std::ios::app) << "{\"tensor\":0,\"ha";
  EXPECT_EQ(run("out", {.resume = true}), expected);
}

TEST_F(QuantizeCheckpoint, EndsARunThatDiedWhileFilesWereRenamed) {
  const auto expected = run("whole");
  run_some("out", some_tensors().size());
  const std::string first = expected.begin()->first;
  ASSERT_TRUE(first.ends_with(".safetensors"));
  std::filesystem::rename(folder_ / "out/.nybble-parts" / first, folder_ / "out" / first);
  EXPECT_EQ(run("out", {.resume = true}), expected);
  EXPECT_EQ(report_.resumed, some_tensors().size());
}

TEST_F(QuantizeCheckpoint, RefusesToMixRuns) {
  run_some("out", 1);
  expect_error(ErrorCode::bad_option, {"out/.nybble-parts", "--resume continues"},
               [&] { run("out"); });
  options_.method = "clip:loss=plain";
  expect_error(ErrorCode::bad_option, {"cannot resume", "was \"int4 rtn\", is \"int4 clip"},
               [&] { run("out", {.resume = true}); });
  options_.method = "rtn";
  options_.shard_bytes = 9000;
  expect_error(ErrorCode::bad_option, {"cannot resume", "shard size: was 8000, is 9000"},
               [&] { run("out", {.resume = true}); });
  options_.shard_bytes = 8000;
  const auto whole = run("whole");
  expect_error(ErrorCode::bad_option, {"whole", "holds a checkpoint already"},
               [&] { run("whole"); });
  EXPECT_EQ(run("whole", {.resume = true}), whole);
  EXPECT_EQ(report_.resumed, some_tensors().size());
  options_.format = "nf4";
  expect_error(ErrorCode::bad_option, {"whole", "holds a checkpoint already"},
               [&] { run("whole", {.resume = true}); });
  options_.format = "int4";
  test::write_model(options_.source, some_tensors());
  expect_error(ErrorCode::bad_option,
               {"cannot resume, source", "model.safetensors was changed since;"},
               [&] { run("out", {.resume = true}); });
}

TEST_F(QuantizeCheckpoint, RefusesWeightsWithNanNamingThem) {
  std::vector<float> values(64 * 64, 1.0F);
  values[70] = std::numeric_limits<float>::quiet_NaN();
  SafetensorsWriter writer(options_.source);
  const std::vector<std::size_t> shape = {64, 64};
  writer.add("a.weight", TensorType::f32, shape, std::as_bytes(std::span(values)));
  writer.finish();
  expect_error(ErrorCode::bad_value, {"a.weight", "nan at [1, 6]"}, [&] { run("out"); });
}

/// Processes that are threads.
class ThreadGroup final : public ProcessGroup {
 public:
  ThreadGroup(std::size_t rank, std::size_t size, std::barrier<>& meeting)
      : rank_(rank), size_(size), meeting_(meeting) {}
  [[nodiscard]] std::size_t rank() const override { return rank_; }
  [[nodiscard]] std::size_t size() const override { return size_; }
  void barrier(const std::function<void()>& /*check*/) override { meeting_.arrive_and_wait(); }

 private:
  std::size_t rank_, size_;
  std::barrier<>& meeting_;
};

TEST_F(QuantizeCheckpoint, ProcessesShareTheWorkAndMakeTheSameBytes) {
  for (const char* method : {"rtn", "hadamard+rtn"}) {
    options_.method = method;
    const auto expected = run(std::string("one ") + method);
    const double sqnr_db = report_.sqnr_db;
    for (const bool begun : {false, true}) {
      const std::string out = std::string("three ") + method + (begun ? " resumed" : "");
      if (begun) run_some(out, 2);
      std::barrier<> meeting(3);
      std::atomic<std::size_t> told = 0;
      std::atomic<std::size_t> busy = 0;
      CheckpointReport report;
      const CheckpointPlan plan(options_);
      const auto work = [&](std::size_t rank) {
        ThreadGroup group(rank, 3, meeting);
        test::ThreadExecutor executor(2);
        std::size_t mine = 0;
        const CheckpointReport own =
            quantize_checkpoint(plan, executor,
                                {.out = folder_ / out,
                                 .resume = begun,
                                 .on_tensor = [&](const TensorDone&) { ++mine; },
                                 .group = &group});
        told += mine;
        busy += mine != 0 ? 1 : 0;
        if (rank == 0) report = own;
      };
      {
        const std::jthread second(work, 1);
        const std::jthread third(work, 2);
        work(0);
      }
      EXPECT_EQ(contents(folder_ / out), expected) << out;
      EXPECT_EQ(report.sqnr_db, sqnr_db);
      EXPECT_EQ(told + report.resumed, some_tensors().size());
      EXPECT_EQ(busy, 3u);
    }
  }
}

TEST_F(QuantizeCheckpoint, CalibratesWithInputsInAnyOfTheirPlaces) {
  options_.method = "clip";
  options_.calibration = folder_ / "inputs.safetensors";
  const std::vector<test::ModelTensor> inputs = {
      {"layers.0.q_proj", {100, 64}, TensorType::f32},
      {"layers.1.gate_proj", {100, 128}, TensorType::f32},
      {"layers.1.down_proj", {100, 64}, TensorType::f32}};
  test::write_model(options_.calibration, inputs);
  const auto expected = run("one file");
  const test::ModelTensor& up = some_tensors()[4];
  const std::vector<float> weight = test::model_values(up);
  const std::vector<float> x = test::model_values(inputs[1]);
  Calibration calibration(128);
  calibration.add({x.data(), 100, 128}, executor_);
  const QuantizedLayer layer = quantize_layer({weight.data(), 64, 128}, parse_format("int4"),
                                              Method("clip"), &calibration, executor_);
  EXPECT_EQ(QuantizedCheckpoint(folder_ / "one file").read("layers.1.up_proj").weight.scales,
            layer.weight.scales);

  options_.calibration = folder_ / "inputs";
  std::filesystem::create_directory(folder_ / "inputs");
  test::write_model(folder_ / "inputs/layers.0.q_proj.safetensors", {inputs[0]});
  calibration.save(folder_ / "inputs/layers.1.up_proj.safetensors");
  const std::vector<float> down = test::model_values(inputs[2]);
  const std::vector<std::size_t> shape = {100, 64};
  write_npy(folder_ / "inputs/layers.1.down_proj.npy", shape, down);
  EXPECT_EQ(run("a folder"), expected);
}

TEST(WeightRows, RoundToNearestReadsAFileAsItDoesAMatrix) {
  const test::TemporaryFolder folder;
  SerialExecutor serial;
  test::ThreadExecutor threads(3);
  for (const TensorType type : {TensorType::bf16, TensorType::f16, TensorType::f32}) {
    const test::ModelTensor tensor{"w", {5, 200}, type};
    test::write_model(folder / "w.safetensors", {tensor});
    const TensorFile file(folder / "w.safetensors");
    const FileRows rows(file, file.tensors()[0]);
    const std::vector<float> values = test::model_values(tensor);
    EXPECT_EQ(all_values(rows, threads), values);
    for (const std::string& spec : test::few_specs()) {
      const AnyFormat format = parse_format(spec);
      const QuantizedMatrix expected = quantize_rtn({values.data(), 5, 200}, format, serial);
      SquaredError one;
      SquaredError three;
      const QuantizedMatrix matrix = quantize_rtn(rows, format, serial, {}, &one);
      ASSERT_EQ(quantize_rtn(rows, format, threads, {}, &three).codes, expected.codes) << spec;
      ASSERT_EQ(matrix.codes, expected.codes) << spec;
      ASSERT_EQ(matrix.scales, expected.scales) << spec;
      EXPECT_EQ(one.noise, three.noise);
      const SquaredError after = squared_error(rows, matrix, {}, threads);
      EXPECT_EQ(after.signal, one.signal);
      EXPECT_NEAR(after.noise, one.noise, 1e-6 * one.noise) << spec;
    }
  }
}

}  // namespace
}  // namespace nybble
