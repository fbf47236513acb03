#include <fmt/format.h>
#include <fmt/ranges.h>

#include "nybble/error.h"
#include "nybble/io/quantized_checkpoint.h"
#include "src/io/layout/layout.h"

namespace nybble {

namespace io {

const std::vector<std::unique_ptr<Layout>>& layouts() {
  static const std::vector<std::unique_ptr<Layout>> rows = [] {
    std::vector<std::unique_ptr<Layout>> all;
    all.push_back(make_gptq_layout(false));
    all.push_back(make_gptq_layout(true));
    all.push_back(make_awq_gemm_layout());
    all.push_back(make_awq_gemv_layout());
    all.push_back(make_bitsandbytes_layout());
    all.push_back(make_compressed_tensors_int4_layout());
    all.push_back(make_compressed_tensors_nvfp4_layout());
    all.push_back(make_compressed_tensors_mxfp4_layout());
    all.push_back(make_modelopt_nvfp4_layout());
    all.push_back(make_gpt_oss_layout());
    all.push_back(make_nybble_layout());
    return all;
  }();
  return rows;
}

const Layout& find_layout(std::string_view name) {
  for (const auto& layout : layouts()) {
    if (layout->name() == name) return *layout;
  }
  throw Error(ErrorCode::bad_option, fmt::format("unknown layout '{}', expected one of {}", name,
                                                 fmt::join(layout_names(), ", ")));
}

}  // namespace io

std::vector<std::string> layout_names() {
  std::vector<std::string> names;
  for (const auto& layout : io::layouts()) names.push_back(layout->name());
  return names;
}

}  // namespace nybble
