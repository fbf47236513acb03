#include "nybble/quantize/calibration.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <set>
#include <string>

#include "nybble/error.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/random.h"
#include "tests/support/thread_executor.h"

namespace nybble::test {
namespace {

struct Inputs {
  std::size_t tokens, channels;
  std::vector<float> values;

  Inputs(std::size_t rows, std::size_t cols, std::uint64_t seed)
      : tokens(rows), channels(cols), values(normal_values(rows * cols, seed)) {}
  [[nodiscard]] MatrixView rows(std::size_t begin, std::size_t end) const {
    return {&values[begin * channels], end - begin, channels};
  }
  [[nodiscard]] MatrixView all() const { return rows(0, tokens); }
};

Calibration calibrate(const Inputs& inputs, const CalibrationOptions& options = {}) {
  SerialExecutor serial;
  Calibration out(inputs.channels, options);
  out.add(inputs.all(), serial);
  return out;
}

TEST(Calibration, MomentsAndExtremesAgainstF64) {
  const Inputs inputs(333, 70, 1);
  const Calibration calibration = calibrate(inputs);
  EXPECT_EQ(calibration.tokens(), 333U);
  const std::vector<float> moment = calibration.second_moment();
  const std::vector<float> max_abs = calibration.max_abs();
  const std::vector<float> mean_abs = calibration.mean_abs();
  std::size_t held_out = 0;
  for (std::size_t t = 0; t < 333; ++t) held_out += t / 16 % 4 == 3 ? 1U : 0U;
  EXPECT_EQ(calibration.held_out_tokens(), held_out);
  for (std::size_t i = 0; i < 70; ++i) {
    double largest = 0;
    double sum_abs = 0;
    for (std::size_t t = 0; t < 333; ++t) {
      const double value = std::fabs(static_cast<double>(inputs.all().at(t, i)));
      largest = std::max(largest, value);
      sum_abs += value;
    }
    EXPECT_EQ(static_cast<double>(max_abs[i]), largest);
    EXPECT_NEAR(static_cast<double>(mean_abs[i]), sum_abs / 333, sum_abs / 333 * 0x1p-24);
    for (std::size_t j = 0; j < 70; ++j) {
      double fit = 0;
      double rest = 0;
      double magnitude = 0;
      for (std::size_t t = 0; t < 333; ++t) {
        const double product =
            static_cast<double>(inputs.all().at(t, i)) * static_cast<double>(inputs.all().at(t, j));
        (t / 16 % 4 == 3 ? rest : fit) += product;
        magnitude += std::fabs(product);
      }
      const double tolerance = magnitude * 335 * 0x1p-24;
      ASSERT_NEAR(static_cast<double>(calibration.fit_moment().at(i, j)), fit, tolerance);
      ASSERT_NEAR(static_cast<double>(calibration.held_out_moment().at(i, j)), rest, tolerance);
      ASSERT_NEAR(static_cast<double>(moment[i * 70 + j]), fit + rest, tolerance);
    }
  }
}

TEST(Calibration, SampleIsUniformAndOfTheTokens) {
  // Which tokens are kept does not depend on how they come, only on their number.
  const Inputs inputs(2000, 3, 2);
  const Calibration whole = calibrate(inputs, {.sample_rows = 100});
  ASSERT_EQ(whole.samples().rows, 100U);
  SerialExecutor serial;
  Calibration streamed(3, {.sample_rows = 100});
  for (std::size_t begin = 0; begin < 2000; begin += 160) {
    streamed.add(inputs.rows(begin, std::min<std::size_t>(2000, begin + 160)), serial);
  }
  std::size_t early = 0;
  std::size_t at = 0;
  for (std::size_t row = 0; row < 100; ++row) {
    // In the order of the tokens, each a token.
    while (at < 2000 && inputs.all().at(at, 0) != whole.samples().at(row, 0)) ++at;
    ASSERT_LT(at, 2000U);
    early += at < 1000 ? 1U : 0U;
    EXPECT_EQ(whole.samples().at(row, 1), streamed.samples().at(row, 1));
  }
  // 50 expected, standard deviation 5.
  EXPECT_GT(early, 30U);
  EXPECT_LT(early, 70U);
  EXPECT_EQ(calibrate(inputs, {.sample_rows = 0}).samples().rows, 0U);
}

TEST(Calibration, MergedIsAsIfSeenTogether) {
  const Inputs first(320, 20, 3);
  const Inputs second(200, 20, 4);
  Calibration merged = calibrate(first, {.sample_rows = 50, .stream = 1});
  const Calibration other = calibrate(second, {.sample_rows = 50, .stream = 2});
  merged.merge(other);
  EXPECT_EQ(merged.tokens(), 520U);
  EXPECT_EQ(merged.samples().rows, 50U);
  const std::vector<float> a = calibrate(first).second_moment();
  const std::vector<float> b = other.second_moment();
  for (std::size_t i = 0; i < a.size(); ++i) {
    // Two roundings of each part, in another order.
    EXPECT_NEAR(merged.second_moment()[i], a[i] + b[i],
                4 * 0x1p-24F * (std::fabs(a[i]) + std::fabs(b[i]) + 520));
  }
  EXPECT_THROW(merged.merge(other), Error);
  EXPECT_THROW(merged.merge(Calibration(21)), Error);
}

TEST(Calibration, SameForAnyNumberOfThreads) {
  const Inputs inputs(500, 130, 5);
  ThreadExecutor executor(4);
  Calibration threaded(130);
  threaded.add(inputs.all(), executor);
  EXPECT_EQ(threaded.second_moment(), calibrate(inputs).second_moment());
  EXPECT_EQ(threaded.mean_abs(), calibrate(inputs).mean_abs());
}

TEST(Calibration, TransformedIsWhatTransformedInputsGive) {
  const Inputs inputs(200, 32, 6);
  SerialExecutor serial;
  Transforms transforms;
  for (std::size_t i = 0; i < 32; ++i) {
    transforms.channel_scale.scale.push_back(0.5F + 0.1F * static_cast<float>(i));
    transforms.permutation.source.push_back(static_cast<std::uint32_t>(31 - i));
  }
  const auto check = [&](bool rotated) {
    if (rotated) {
      transforms.hadamard.block = 16;
      transforms.hadamard.signs.assign(32, 1.0F);
      transforms.hadamard.signs[5] = -1;
    }
    const Calibration ours = calibrate(inputs).transformed(transforms, serial);
    // T written down: scale, order, signs, then blocks of a Walsh-Hadamard matrix.
    std::vector<float> values(inputs.values.size());
    for (std::size_t t = 0; t < inputs.tokens; ++t) {
      std::vector<double> row(32);
      for (std::size_t i = 0; i < 32; ++i) {
        const std::size_t from = 31 - i;
        row[i] = static_cast<double>(inputs.all().at(t, from)) *
                 static_cast<double>(transforms.channel_scale.scale[from]);
        if (rotated) row[i] *= static_cast<double>(transforms.hadamard.signs[i]);
      }
      for (std::size_t i = 0; i < 32; ++i) {
        double value = row[i];
        if (rotated) {
          value = 0;
          for (std::size_t j = i / 16 * 16; j < i / 16 * 16 + 16; ++j) {
            const bool odd = std::popcount((i % 16) & (j % 16)) % 2 == 1;
            value += (odd ? -row[j] : row[j]) / 4;
          }
        }
        values[t * 32 + i] = static_cast<float>(value);
      }
    }
    Inputs transformed = inputs;
    transformed.values = values;
    const Calibration expected = calibrate(transformed);
    for (std::size_t i = 0; i < 32 * 32; ++i) {
      const float diagonal =
          expected.second_moment()[i / 32 * 33] + expected.second_moment()[i % 32 * 33];
      EXPECT_NEAR(ours.second_moment()[i], expected.second_moment()[i], diagonal * 300 * 0x1p-24F);
    }
    for (std::size_t i = 0; i < 32; ++i) {
      EXPECT_NEAR(ours.max_abs()[i], expected.max_abs()[i], 1e-5F * expected.max_abs()[i]);
      EXPECT_NEAR(ours.mean_abs()[i], expected.mean_abs()[i], 1e-5F * expected.mean_abs()[i]);
    }
  };
  check(false);
  check(true);
}

TEST(Calibration, SavedAndLoaded) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "layer.safetensors";
  const Inputs inputs(300, 24, 7);
  Calibration saved = calibrate(inputs, {.sample_rows = 40, .stream = 9});
  saved.save(path);
  Calibration loaded = Calibration::load(path);
  EXPECT_EQ(loaded.tokens(), saved.tokens());
  EXPECT_EQ(loaded.second_moment(), saved.second_moment());
  EXPECT_EQ(loaded.mean_abs(), saved.mean_abs());
  // It goes on as the one it was.
  SerialExecutor serial;
  const Inputs more(100, 24, 8);
  loaded.add(more.all(), serial);
  saved.add(more.all(), serial);
  EXPECT_EQ(loaded.second_moment(), saved.second_moment());
  ASSERT_EQ(loaded.samples().rows, saved.samples().rows);
  for (std::size_t row = 0; row < 40; ++row) {
    EXPECT_EQ(loaded.samples().at(row, 3), saved.samples().at(row, 3));
  }

  std::string bytes;
  {
    std::ifstream file(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
  }
  for (const std::string& text :
       {bytes.substr(0, bytes.size() / 2), std::string("no"),
        std::string(bytes).replace(bytes.find("calibration 1"), 13, "calibration 7")}) {
    std::ofstream(path, std::ios::binary) << text;
    EXPECT_THROW(Calibration::load(path), Error);
  }
}

TEST(Calibration, CrossMomentOfOriginals) {
  const Inputs inputs(150, 12, 1);
  const Inputs originals(150, 12, 2);
  SerialExecutor serial;
  Calibration calibration(12, {.stream = 1});
  calibration.add(inputs.rows(0, 90), originals.rows(0, 90), serial);
  calibration.add(inputs.rows(90, 150), originals.rows(90, 150), serial);
  EXPECT_EQ(calibration.second_moment(), [&] {
    Calibration alone(12);
    alone.add(inputs.rows(0, 90), serial);
    alone.add(inputs.rows(90, 150), serial);
    return alone.second_moment();
  }());
  for (std::size_t i = 0; i < 12; ++i) {
    for (std::size_t j = 0; j < 12; ++j) {
      double sum = 0;
      double magnitude = 0;
      for (std::size_t t = 0; t < 150; ++t) {
        const double product = static_cast<double>(originals.all().at(t, i)) *
                               static_cast<double>(inputs.all().at(t, j));
        sum += product;
        magnitude += std::fabs(product);
      }
      EXPECT_NEAR(static_cast<double>(calibration.cross_moment().at(i, j)), sum,
                  magnitude * 152 * 0x1p-24);
    }
  }
  const TemporaryFolder folder;
  calibration.save(folder.path() / "c");
  const Calibration loaded = Calibration::load(folder.path() / "c");
  EXPECT_EQ(loaded.cross_moment().at(3, 4), calibration.cross_moment().at(3, 4));
  EXPECT_THROW(calibration.add(inputs.all(), serial), Error);
  EXPECT_THROW(calibration.merge(calibrate(inputs)), Error);
  Calibration without = calibrate(inputs);
  EXPECT_EQ(without.cross_moment().data, nullptr);
  EXPECT_THROW(without.add(inputs.all(), originals.all(), serial), Error);
  EXPECT_THROW(Calibration(12).add(inputs.all(), originals.rows(0, 10), serial), Error);
}

TEST(Calibration, RefusesWhatItCannotUse) {
  SerialExecutor serial;
  Calibration calibration(4);
  Inputs inputs(10, 4, 1);
  inputs.values[17] = std::numeric_limits<float>::infinity();
  try {
    calibration.add(inputs.all(), serial, "layer 3");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::bad_value);
    EXPECT_NE(std::string(error.what()).find("layer 3: inf at [4, 1]"), std::string::npos)
        << error.what();
  }
  EXPECT_EQ(calibration.tokens(), 0U);
  EXPECT_THROW(calibration.add(Inputs(3, 5, 1).all(), serial), Error);
  EXPECT_THROW(Calibration(0), Error);
}

}  // namespace
}  // namespace nybble::test
