// One AMXFP4 and one MXFP4 group through the scalar encode and decode of the headers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "nybble/format/amxfp4.h"
#include "nybble/format/mxfp4.h"
#include "nybble/numeric/float16.h"

namespace {

/// Largest error of a group after a round trip, over its largest magnitude.
template <nybble::Format F>
float round_trip_error(const F& format, const std::vector<float>& group) {
  const auto [low, high] = std::minmax_element(group.begin(), group.end());
  const nybble::TensorScale tensor;
  const nybble::ScaleChoice choice = format.choose({*high, *low}, tensor, 1.0F);
  float error = 0;
  for (const float value : group) {
    const auto code = nybble::encode_value(format.encode_table(), choice, value);
    error = std::max(error, std::fabs(format.decode(code, choice.scale, tensor) - value));
  }
  return error / std::max(*high, -*low);
}

}  // namespace

int main() {
  std::vector<float> group(32);
  for (std::size_t i = 0; i < group.size(); ++i) group[i] = std::sin(static_cast<float>(i));
  const nybble::Amxfp4 amxfp4("amxfp4", 32, nybble::LevelTies::away, {});
  const nybble::Mxfp4 mxfp4("mxfp4", 32, nybble::LevelTies::even, nybble::PowerOfTwoScale());
  const float errors[] = {round_trip_error(amxfp4, group), round_trip_error(mxfp4, group)};
  std::printf("amxfp4 %.3f mxfp4 %.3f\n", static_cast<double>(errors[0]),
              static_cast<double>(errors[1]));
  // The largest gap is from 4 to 6 of 6: half of it is a sixth; MXFP4 clips up to a quarter.
  const bool good = errors[0] < 0.2F && errors[1] <= 0.25F &&
                    nybble::Float16::from_float(0.5F).to_float() == 0.5F;
  return good ? 0 : 1;
}
