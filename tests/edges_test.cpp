// The edges of the public classes: sizes beyond any memory, batches of nothing, memory that only
// seems to overlap, objects that were moved from, enumerations without that value.

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "nybble/attention/kv_cache.h"
#include "nybble/error.h"
#include "nybble/format/amxfp4.h"
#include "nybble/format/fp4.h"
#include "nybble/format/int4.h"
#include "nybble/format/mxfp4.h"
#include "nybble/format/registry.h"
#include "nybble/io/npy.h"
#include "nybble/io/quantized_checkpoint.h"
#include "nybble/io/safetensors.h"
#include "nybble/linear/grouped_linear.h"
#include "nybble/quantize/awq.h"
#include "nybble/quantize/checkpoint.h"
#include "nybble/quantize/gptq.h"
#include "nybble/quantize/method.h"
#include "nybble/quantize/omniquant.h"
#include "nybble/quantize/rtn.h"
#include "nybble/tensor/packed_matrix.h"
#include "src/tensor/separate.h"
#include "tests/io/temporary_folder.h"
#include "tests/quantize/layer_problem.h"
#include "tests/support/random.h"

namespace nybble::test {
namespace {

constexpr std::size_t kRows = 40;
constexpr std::size_t kCols = 96;
constexpr std::size_t kHuge = std::numeric_limits<std::size_t>::max();

QuantizedMatrix make_matrix(const std::string& format = "int4") {
  SerialExecutor serial;
  const std::vector<float> values = normal_values(kRows * kCols, 1);
  return quantize_rtn({values.data(), kRows, kCols}, parse_format(format), serial);
}
QuantizedLinear make_linear() {
  SerialExecutor serial;
  return {make_matrix(), {}, serial};
}
GroupedLinear make_grouped() {
  SerialExecutor serial;
  const std::vector<QuantizedMatrix> experts = {make_matrix(), make_matrix()};
  return {experts, {}, serial};
}
KvCache make_cache() { return {2, 32, 40, {parse_format("int4"), parse_format("int4")}}; }

/// The code of the nybble::Error that `call` throws, or what else happened.
std::string thrown(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code() == ErrorCode::bad_option  ? "bad_option"
           : error.code() == ErrorCode::bad_shape ? "bad_shape"
                                                  : "another code";
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing";
}

TEST(Edges, SizesDoNotWrap) {
  const QuantizedLinear linear = make_linear();
  const GroupedLinear grouped = make_grouped();
  std::size_t last[3] = {};
  // Each bit of a size_t, and the numbers beside it.
  for (int bit = 0; bit < 64; ++bit) {
    for (const std::size_t beside : {std::size_t{0}, std::size_t{1}}) {
      const std::size_t m = (std::size_t{1} << bit) + beside;
      const std::size_t found[] = {linear.workspace_bytes(m, 2), grouped.workspace_bytes(m, 2),
                                   grouped.summed_workspace_bytes(m, 2)};
      for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_GE(found[i], last[i]) << m;
        EXPECT_GE(found[i], m) << m;
        last[i] = found[i];
      }
    }
  }
  EXPECT_EQ(linear.workspace_bytes(kHuge, kHuge), kHuge);
  EXPECT_EQ(grouped.workspace_bytes(kHuge, kHuge), kHuge);
  EXPECT_EQ(grouped.summed_workspace_bytes(kHuge, kHuge), kHuge);
  Workspace workspace;
  workspace.reserve(100);
  for (const std::size_t bytes : {kHuge, kHuge - 4096, kHuge / 2, std::size_t{1} << 62}) {
    EXPECT_THROW(workspace.reserve(bytes), std::bad_alloc) << bytes;
    EXPECT_EQ(workspace.size(), 100U);
  }
}

TEST(Edges, NoRowsAreNoWork) {
  SerialExecutor serial;
  Workspace workspace;
  const QuantizedLinear linear = make_linear();
  EXPECT_EQ(linear.workspace_bytes(0, 4), 0U);
  linear.run({nullptr, 0, kCols}, {nullptr, 0, kRows}, workspace, serial);
  linear.run_unchecked({nullptr, 0, kCols}, {nullptr, 0, kRows}, workspace, serial);
  // But columns are looked at.
  EXPECT_EQ(thrown([&] {
              linear.run({nullptr, 0, 1}, {nullptr, 0, kRows}, workspace, serial);
            }),
            "bad_shape");
  std::vector<float> row(kCols);
  EXPECT_EQ(thrown([&] {
              linear.run({row.data(), 1, kCols}, {nullptr, 0, kRows}, workspace, serial);
            }),
            "bad_shape");

  const GroupedLinear grouped = make_grouped();
  EXPECT_EQ(grouped.workspace_bytes(0, 4), 0U);
  grouped.run({nullptr, 0, kCols}, {}, {nullptr, 0, kRows}, workspace, serial);
  grouped.run_summed({nullptr, 0, kCols}, {}, {}, {nullptr, 0, kRows}, workspace, serial);
  EXPECT_EQ(thrown([&] {
              grouped.run({row.data(), 1, kCols}, {}, {nullptr, 0, kRows}, workspace, serial);
            }),
            "bad_shape");
  const std::vector<std::uint32_t> route = {0};
  EXPECT_EQ(thrown([&] {
              grouped.run({nullptr, 0, kCols}, route, {row.data(), 1, kRows}, workspace, serial);
            }),
            "bad_shape");

  KvCache cache = make_cache();
  cache.append({nullptr, 0, 64}, {nullptr, 0, 64}, serial);
  cache.attend({nullptr, 0, 64}, {nullptr, 0, 64}, 1, workspace, serial);
  EXPECT_EQ(cache.size(), 0U);

  Calibration calibration(kCols);
  calibration.add({nullptr, 0, kCols}, serial);
  calibration.add({nullptr, 0, kCols}, MatrixView(nullptr, 0, kCols), serial);
  EXPECT_EQ(calibration.tokens(), 0U);
  fake_quantize_rows({nullptr, 0, kCols}, parse_format("int4"), serial);
}

/// check_separate against the elements themselves, for all small rectangles of one buffer.
TEST(Edges, OverlapIsThatOfElements) {
  std::vector<float> buffer(400);
  Random random(5);
  std::size_t apart = 0;
  std::size_t interleaved = 0;
  for (int i = 0; i < 20000; ++i) {
    const auto view = [&] {
      const std::size_t cols = 1 + random.index(6);
      const std::size_t stride = cols + random.index(9);
      return MatrixView(&buffer[random.index(250)], random.index(8), cols, stride);
    };
    const MatrixView x = view();
    MatrixView y = view();
    if (i % 2 == 0) y.stride = std::max(x.stride, y.cols);
    std::vector<int> seen(buffer.size());
    bool shared = false;
    for (std::size_t r = 0; r < x.rows; ++r) {
      for (std::size_t c = 0; c < x.cols; ++c)
        seen[static_cast<std::size_t>(&x.at(r, c) - &buffer[0])] = 1;
    }
    for (std::size_t r = 0; r < y.rows; ++r) {
      for (std::size_t c = 0; c < y.cols; ++c) {
        shared = shared || seen[static_cast<std::size_t>(&y.at(r, c) - &buffer[0])] == 1;
      }
    }
    ASSERT_EQ(thrown([&] { check_separate(x, y, "x and y"); }), shared ? "bad_shape" : "nothing")
        << i;
    ASSERT_EQ(thrown([&] { check_separate(y, x, "x and y"); }), shared ? "bad_shape" : "nothing")
        << i;
    apart += shared ? 0U : 1U;
    if (shared || x.rows < 2 || y.rows < 2) continue;
    interleaved += x.data < y.row(y.rows - 1) && y.data < x.row(x.rows - 1) ? 1U : 0U;
  }
  EXPECT_GT(apart, 1000U);
  EXPECT_GT(interleaved, 100U);
}

TEST(Edges, ColumnsOfOneBuffer) {
  constexpr std::size_t kM = 5;
  constexpr std::size_t kStride = kCols + kRows;
  SerialExecutor serial;
  const QuantizedLinear linear = make_linear();
  const std::vector<float> x = normal_values(kM * kCols, 2);
  std::vector<float> expected(kM * kRows);
  Workspace workspace;
  linear.run({x.data(), kM, kCols}, {expected.data(), kM, kRows}, workspace, serial);
  std::vector<float> buffer(kM * kStride);
  for (std::size_t m = 0; m < kM; ++m) {
    std::copy_n(&x[m * kCols], kCols, &buffer[m * kStride]);
  }
  linear.run({buffer.data(), kM, kCols, kStride}, {&buffer[kCols], kM, kRows, kStride}, workspace,
             serial);
  for (std::size_t m = 0; m < kM; ++m) {
    for (std::size_t n = 0; n < kRows; ++n) {
      EXPECT_EQ(buffer[m * kStride + kCols + n], expected[m * kRows + n]);
    }
  }
  EXPECT_EQ(thrown([&] {
              linear.run({buffer.data(), kM, kCols, kStride},
                         {&buffer[kCols - 1], kM, kRows, kStride}, workspace, serial);
            }),
            "bad_shape");
}

TEST(Edges, MovedFromObjectsThrowOrAreEmpty) {
  SerialExecutor serial;
  Workspace workspace;
  std::vector<float> x(kCols);
  std::vector<float> y(kRows);

  QuantizedLinear linear = make_linear();
  const QuantizedLinear taken_linear = std::move(linear);
  EXPECT_EQ(linear.rows() + linear.cols() + linear.packed_bytes(), 0U);
  EXPECT_EQ(linear.workspace_bytes(4, 4), 0U);
  linear.run_unchecked({x.data(), 1, kCols}, {y.data(), 1, kRows}, workspace, serial);
  EXPECT_EQ(thrown([&] {
              linear.run({x.data(), 1, kCols}, {y.data(), 1, kRows}, workspace, serial);
            }),
            "bad_option");
  EXPECT_EQ(thrown([&] { static_cast<void>(linear.kernel()); }), "bad_option");
  EXPECT_EQ(thrown([&] { static_cast<void>(linear.explain()); }), "bad_option");
  linear = make_linear();
  EXPECT_EQ(linear.rows(), kRows);

  GroupedLinear grouped = make_grouped();
  const GroupedLinear taken_grouped = std::move(grouped);
  EXPECT_EQ(grouped.rows() + grouped.cols() + grouped.packed_bytes() + grouped.experts(), 0U);
  EXPECT_EQ(grouped.workspace_bytes(4, 4) + grouped.summed_workspace_bytes(4, 4), 0U);
  const std::vector<std::uint32_t> route = {0};
  EXPECT_EQ(thrown([&] {
              grouped.run({x.data(), 1, kCols}, route, {y.data(), 1, kRows}, workspace, serial);
            }),
            "bad_option");
  EXPECT_EQ(
      thrown([&] {
        grouped.run_summed({x.data(), 1, kCols}, route, y, {y.data(), 1, kRows}, workspace, serial);
      }),
      "bad_option");
  EXPECT_EQ(thrown([&] { static_cast<void>(grouped.kernel()); }), "bad_option");
  EXPECT_EQ(thrown([&] { static_cast<void>(grouped.explain()); }), "bad_option");

  KvCache cache = make_cache();
  const KvCache taken_cache = std::move(cache);
  cache.clear();
  EXPECT_EQ(cache.size() + cache.capacity() + cache.kv_heads() + cache.head_dim() + cache.bytes(),
            0U);
  EXPECT_EQ(thrown([&] {
              cache.append({x.data(), 1, 64}, {x.data(), 1, 64}, serial);
            }),
            "bad_option");
  EXPECT_EQ(thrown([&] {
              cache.attend({x.data(), 1, 64}, {y.data(), 1, 64}, 1, workspace, serial);
            }),
            "bad_option");
  EXPECT_EQ(thrown([&] { cache.set_key_offset(x); }), "bad_option");
  for (const auto text : {&KvCache::key_kernel, &KvCache::value_kernel, &KvCache::explain}) {
    EXPECT_EQ(thrown([&] { static_cast<void>((cache.*text)()); }), "bad_option");
  }

  PackedMatrix packed(make_matrix(), serial);
  const PackedMatrix taken_packed = std::move(packed);
  EXPECT_EQ(packed.rows() + packed.cols() + packed.padded_cols() + packed.bytes(), 0U);
  EXPECT_EQ(thrown([&] { static_cast<void>(packed.unpack(serial)); }), "bad_option");

  QuantizedMatrix matrix = make_matrix();
  const QuantizedMatrix taken_matrix = std::move(matrix);
  EXPECT_EQ(thrown([&] { matrix.check(); }), "bad_shape");
  EXPECT_EQ(thrown([&] { const QuantizedLinear made(matrix, {}, serial); }), "bad_shape");

  AnyFormat format = parse_format("nvfp4");
  const AnyFormat taken_format = std::move(format);
  EXPECT_EQ(format.info().spec, "nvfp4");

  const SmallLayer layer(16, 32, 32);
  Calibration calibration = layer.calibration;
  const Calibration taken_calibration = std::move(calibration);
  EXPECT_EQ(taken_calibration.tokens(), 32U);
  EXPECT_EQ(calibration.channels() + calibration.tokens() + calibration.held_out_tokens(), 0U);
  EXPECT_EQ(calibration.samples().rows + calibration.max_abs().size() +
                calibration.second_moment().size(),
            0U);
  EXPECT_EQ(thrown([&] { calibration.add(layer.input_view(), serial); }), "bad_shape");
  EXPECT_EQ(thrown([&] { calibration.merge(taken_calibration); }), "bad_shape");
  EXPECT_EQ(
      thrown([&] {
        static_cast<void>(quantize_gptq(layer.view(), parse_format("int4"), calibration, serial));
      }),
      "bad_shape");
  calibration = taken_calibration;
  EXPECT_EQ(calibration.tokens(), 32U);

  Method method("awq+gptq");
  const Method taken_method = std::move(method);
  EXPECT_EQ(thrown([&] {
              static_cast<void>(quantize_layer(layer.view(), parse_format("int4"), method,
                                               &layer.calibration, serial));
            }),
            "bad_option");

  TemporaryFolder folder;
  SafetensorsWriter writer(folder / "model.safetensors");
  const std::vector<float> values = normal_values(32 * 32, 8);
  const std::size_t shape[] = {32, 32};
  writer.add("a.weight", TensorType::f32, shape, std::as_bytes(std::span(values)));
  writer.finish();
  QuantizedCheckpoint checkpoint(folder / "model.safetensors");
  const QuantizedCheckpoint taken_checkpoint = std::move(checkpoint);
  EXPECT_EQ(taken_checkpoint.tensors().size(), 1U);
  const std::vector<std::function<void()>> of_checkpoint = {
      [&] { static_cast<void>(checkpoint.layers()); },
      [&] { static_cast<void>(checkpoint.tensors()); },
      [&] { static_cast<void>(checkpoint.reasons()); },
      [&] { static_cast<void>(checkpoint.claimed_method()); },
      [&] { static_cast<void>(checkpoint.metadata()); },
      [&] { static_cast<void>(checkpoint.read("a")); },
      [&] { static_cast<void>(checkpoint.read_f32("a.weight")); }};
  for (const auto& call : of_checkpoint) EXPECT_EQ(thrown(call), "bad_option");

  CheckpointOptions options;
  options.source = folder / "model.safetensors";
  options.format = "int4";
  CheckpointPlan plan(options);
  const CheckpointPlan taken_plan = std::move(plan);
  EXPECT_EQ(taken_plan.tensors().size(), 1U);
  const std::vector<std::function<void()>> of_plan = {
      [&] { static_cast<void>(plan.tensors()); }, [&] { static_cast<void>(plan.files()); },
      [&] { static_cast<void>(plan.kept_out()); }, [&] { static_cast<void>(plan.exact()); },
      [&] { quantize_checkpoint(plan, serial, {.out = folder / "out"}); }};
  for (const auto& call : of_plan) EXPECT_EQ(thrown(call), "bad_option");

  Workspace used;
  used.reserve(64);
  const Workspace taken_workspace = std::move(used);
  EXPECT_EQ(used.size(), 0U);
  EXPECT_EQ(used.data(), nullptr);
}

TEST(Edges, EnumerationsOutOfRangeAreRefused) {
  SerialExecutor serial;
  const SmallLayer layer(16, 32, 32);
  const auto path = static_cast<Path>(4);
  const QuantizedMatrix matrix = make_matrix();
  const std::vector<QuantizedMatrix> experts = {matrix};
  const std::vector<std::pair<const char*, std::function<void()>>> calls = {
      {"linear path", [&] { QuantizedLinear(matrix, {.path = path}, serial); }},
      {"linear path -1", [&] { QuantizedLinear(matrix, {.path = static_cast<Path>(-1)}, serial); }},
      {"grouped path", [&] { GroupedLinear(experts, {.path = path}, serial); }},
      {"cache path",
       [&] {
         KvCache(1, 32, 8, {parse_format("int4"), parse_format("int4"), ValueGroups::tokens, path});
       }},
      {"cache groups",
       [&] {
         KvCache(1, 32, 8,
                 {parse_format("int4"), parse_format("int4"), static_cast<ValueGroups>(2)});
       }},
      {"scale type", [] { Int4("x", 32, LevelTies::even, Int4Scale(static_cast<ScaleType>(7))); }},
      {"ties", [] { Fp4("x", 32, static_cast<LevelTies>(4), AbsmaxScale(ScaleType::f16)); }},
      {"exponent rule",
       [&] {
         const std::vector<float> values = normal_values(64, 1);
         quantize_rtn(
             {values.data(), 2, 32},
             Mxfp4("x", 32, LevelTies::even, PowerOfTwoScale(static_cast<ExponentRule>(4))),
             serial);
       }},
      {"tie rule", [] { static_cast<void>(level_ties(static_cast<TieRule>(3))); }},
      {"scale bytes", [] { static_cast<void>(scale_bytes(static_cast<ScaleType>(7))); }},
      {"load scale",
       [] {
         const std::uint8_t bytes[4] = {};
         static_cast<void>(load_scale(static_cast<ScaleType>(255), bytes));
       }},
      {"store scale",
       [] {
         std::uint8_t bytes[4] = {};
         store_scale(static_cast<ScaleType>(7), 1, bytes);
       }},
      {"round scale", [] { static_cast<void>(round_scale(static_cast<ScaleType>(7), 1)); }},
      {"gptq order",
       [&] {
         GptqOptions options;
         options.order = static_cast<ColumnOrder>(3);
         quantize_gptq(layer.view(), parse_format("int4"), layer.calibration, serial, options);
       }},
      {"gptq scales",
       [&] {
         GptqOptions options;
         options.scales = static_cast<ScaleChooser>(2);
         quantize_gptq(layer.view(), parse_format("int4"), layer.calibration, serial, options);
       }},
      {"gptq damping",
       [&] {
         GptqOptions options;
         options.damping = Damping{static_cast<Damping::Kind>(2), 0.01F};
         quantize_gptq(layer.view(), parse_format("int4"), layer.calibration, serial, options);
       }},
      {"awq form",
       [&] {
         AwqOptions options;
         options.form = static_cast<AwqOptions::Form>(3);
         search_awq_scale(layer.view(), parse_format("int4"), layer.calibration, serial, options);
       }},
      {"omniquant start",
       [&] {
         OmniQuantOptions options;
         options.start = static_cast<OmniQuantOptions::Start>(2);
         quantize_omniquant(layer.view(), parse_format("int4"), layer.calibration, serial, options);
       }},
      {"omniquant let",
       [&] {
         OmniQuantOptions options;
         options.let = static_cast<OmniQuantOptions::Let>(3);
         quantize_omniquant(layer.view(), parse_format("int4"), layer.calibration, serial, options);
       }},
      {"npy type",
       [] {
         write_npy("/nonexistent/x.npy", static_cast<NpyType>(12), {},
                   std::span<const std::byte>());
       }},
  };
  for (const auto& [name, call] : calls) EXPECT_EQ(thrown(call), "bad_option") << name;
}

TEST(Edges, FormatsThatCannotBeMadeAreNotRegistered) {
  const auto make = [](SpecOptions&) { return parse_format("int4"); };
  const std::size_t before = format_families().size();
  EXPECT_EQ(thrown([] { register_format({"made_by_nobody", "", "", nullptr}); }), "bad_option");
  for (const char* name : {"", "a:b", "a,b", "a=b"}) {
    EXPECT_EQ(thrown([&] { register_format({name, "", "", make}); }), "bad_option") << name;
  }
  EXPECT_EQ(format_families().size(), before);
}

}  // namespace
}  // namespace nybble::test
