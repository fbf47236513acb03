#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "block.h"
#include "quantize.h"

namespace llama {

/// A line of `compare`: what weights become and how they are computed with.
struct Row {
  QuantizeSettings quantize;
  ModelSettings settings;
};

/// Rows "format/path" or "format/path/method", the method rtn where it is left out, between ';' or
/// ','. A comma inside a format or method has "key=" behind it and ends no row:
/// "amxfp4:scale=e8m0,search=mse/a16/gptq:damp=0.01,refine=cd,int4/a8" is two. Everything else is
/// as in `common`. Throws bad_option.
std::vector<Row> parse_rows(std::string_view text, const ModelSettings& common);

/// The rows of `compare` where none are given, in the same notation.
std::string default_rows();

}  // namespace llama
