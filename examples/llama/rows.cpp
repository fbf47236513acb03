#include "rows.h"

#include <fmt/format.h>

#include "nybble/error.h"
#include "nybble/format/registry.h"

namespace llama {
namespace {

using nybble::Error;
using nybble::ErrorCode;

/// Whether `rest`, which follows a comma, goes on with an option of what stands before it.
bool is_option(std::string_view rest) {
  const std::size_t end = rest.find_first_of(":=,;/+");
  return end != std::string_view::npos && rest[end] == '=';
}

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> rows;
  std::size_t begin = 0;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && text[i] != ';' && text[i] != ',') continue;
    if (i < text.size() && text[i] == ',' && is_option(text.substr(i + 1))) continue;
    rows.push_back(text.substr(begin, i - begin));
    begin = i + 1;
  }
  return rows;
}

Row parse_row(std::string_view row, const ModelSettings& common) {
  const std::size_t path = row.find('/');
  if (path == std::string_view::npos) {
    throw Error(ErrorCode::bad_option,
                fmt::format("--rows: \"{}\", expected format/path or format/path/method, such as "
                            "int4/a8",
                            row));
  }
  const std::size_t method = row.find('/', path + 1);
  const std::string_view method_spec =
      method == std::string_view::npos ? "rtn" : row.substr(method + 1);
  Row out{{nybble::parse_format(row.substr(0, path)),
           std::make_shared<const nybble::Method>(method_spec), false},
          common};
  // Up to the end where there is no method.
  out.settings.linear.path = nybble::parse_path(row.substr(path + 1, method - path - 1));
  if (out.settings.linear.path != nybble::Path::a4) out.settings.linear.activations.reset();
  return out;
}

}  // namespace

std::vector<Row> parse_rows(std::string_view text, const ModelSettings& common) {
  std::vector<Row> rows;
  for (const std::string_view row : split(text)) rows.push_back(parse_row(row, common));
  return rows;
}

std::string default_rows() {
  return "int4/a8,int4:group=128/a8,int4:zero_point=true/a8,fp4/a8,nf4/a8,nf4/a32,fp4_bnb/a32,"
         "mxfp4/a8,nvfp4/a8,nvfp4:search=4over6/a8,amxfp4/a16,amxfp4:search=mse/a16,"
         "int4/a4,mxfp4/a4,nvfp4/a4,amxfp4/a4";
}

}  // namespace llama
