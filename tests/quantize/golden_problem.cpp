#include "tests/quantize/golden_problem.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "nybble/format/int4.h"
#include "nybble/io/npy.h"

namespace nybble::test {

namespace {

/// GPTQ's Quantizer.find_params, symmetric: 15 steps over twice the largest magnitude, or over the
/// range of a group without negative values, whose upper half it clips (algorithms.md section 2).
struct GptqSymmetricScale : PlainRule {
  [[nodiscard]] static ScaleLayout layout() { return ScaleLayout::symmetric; }
  [[nodiscard]] static ScaleType scale_type() { return ScaleType::f32; }
  [[nodiscard]] static ScaleChoice choose(GroupRange range, TensorScale /*tensor*/,
                                          float /*peak*/) {
    float low = std::min(range.min, 0.0F);
    float high = std::max(std::fabs(low), std::max(range.max, 0.0F));
    if (low < 0) low = -high;
    if (low == 0 && high == 0) {
      low = -1;
      high = 1;
    }
    return symmetric_choice((high - low) / 15);
  }
  [[nodiscard]] static ScaleChoice candidate(GroupRange range, TensorScale tensor, float peak,
                                             int /*index*/) {
    return choose(range, tensor, peak);
  }
};

/// The same, asymmetric.
struct GptqZeroPointScale : PlainRule {
  [[nodiscard]] static ScaleLayout layout() { return ScaleLayout::zero_point; }
  [[nodiscard]] static ScaleType scale_type() { return ScaleType::f32; }
  [[nodiscard]] static ScaleChoice choose(GroupRange range, TensorScale /*tensor*/,
                                          float /*peak*/) {
    float low = std::min(range.min, 0.0F);
    float high = std::max(range.max, 0.0F);
    if (low == 0 && high == 0) {
      low = -1;
      high = 1;
    }
    ScaleChoice out = symmetric_choice((high - low) / 15);
    out.scale.zero = std::nearbyint(-low / out.scale.positive);
    return out;
  }
  [[nodiscard]] static ScaleChoice candidate(GroupRange range, TensorScale tensor, float peak,
                                             int /*index*/) {
    return choose(range, tensor, peak);
  }
};

/// llm-awq's pseudo_quantize_tensor: the true range, whether or not 0 is in it.
struct AwqZeroPointScale : PlainRule {
  [[nodiscard]] static ScaleLayout layout() { return ScaleLayout::zero_point; }
  [[nodiscard]] static ScaleType scale_type() { return ScaleType::f32; }
  [[nodiscard]] static ScaleChoice choose(GroupRange range, TensorScale /*tensor*/,
                                          float /*peak*/) {
    ScaleChoice out = symmetric_choice(std::max(range.max - range.min, 1e-5F) / 15);
    out.scale.zero = std::clamp(-std::nearbyint(range.min / out.scale.positive), 0.0F, 15.0F);
    return out;
  }
  [[nodiscard]] static ScaleChoice candidate(GroupRange range, TensorScale tensor, float peak,
                                             int /*index*/) {
    return choose(range, tensor, peak);
  }
};

nlohmann::json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

Calibration calibrate(const GoldenMatrix& inputs) {
  SerialExecutor serial;
  Calibration out(inputs.shape.at(1));
  out.add(inputs.view(), serial);
  return out;
}

}  // namespace

GoldenMatrix read_golden(const std::filesystem::path& path) {
  const NpyArray array = read_npy(path);
  GoldenMatrix out{array.shape, {}};
  const auto convert = [&](const auto& values) {
    for (const auto value : values) out.values.push_back(static_cast<float>(value));
  };
  switch (array.type) {
    case NpyType::u8:
      convert(array.as<std::uint8_t>());
      break;
    case NpyType::i8:
      convert(array.as<std::int8_t>());
      break;
    case NpyType::i32:
      convert(array.as<std::int32_t>());
      break;
    case NpyType::i64:
      convert(array.as<std::int64_t>());
      break;
    default:
      out.values = array.as_f32();
  }
  return out;
}

GoldenProblem::GoldenProblem(const std::filesystem::path& problem_folder)
    : name(problem_folder.filename().string()),
      folder(problem_folder),
      weight(read_golden(folder / "W.npy")),
      inputs(read_golden(folder / "X.npy")),
      test_inputs(read_golden(folder / "X_test.npy")),
      results(read_json(folder / "results.json")),
      calibration(calibrate(inputs)) {}

std::vector<std::filesystem::path> golden_problems(const std::filesystem::path& root,
                                                   std::size_t most) {
  std::vector<std::filesystem::path> out;
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    if (!std::filesystem::exists(entry.path() / "problem.json")) continue;
    const NpyArray weight = read_npy(entry.path() / "W.npy");
    if (weight.count() <= most) out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

AnyFormat gptq_format(bool symmetric, std::size_t group) {
  if (symmetric) {
    return BlockFormat<Int4Levels, GptqSymmetricScale>("gptq_symmetric", group, LevelTies::even,
                                                       {});
  }
  return BlockFormat<Uint4Levels, GptqZeroPointScale>("gptq_zero_point", group, LevelTies::even,
                                                      {});
}

AnyFormat awq_format(std::size_t group) {
  return BlockFormat<Uint4Levels, AwqZeroPointScale>("awq_zero_point", group, LevelTies::even, {});
}

std::size_t group_of(const std::string& name) {
  std::istringstream parts(name);
  for (std::string part; std::getline(parts, part, '.');) {
    if (part == "pc") return 0;
    if (part.size() > 1 && part[0] == 'g' && std::isdigit(static_cast<unsigned char>(part[1]))) {
      return static_cast<std::size_t>(std::stoul(part.substr(1)));
    }
  }
  return 0;
}

}  // namespace nybble::test
