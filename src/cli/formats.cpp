#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "commands.h"
#include "nybble/format/registry.h"
#include "nybble/tensor/quantized_matrix.h"
#include "output.h"

namespace nybble::cli {

namespace {

struct Options {
  bool json = false;
  bool markdown = false;
};

/// A family as its default options make it.
struct Row {
  FormatFamily family;
  FormatInfo info;
  double bits = 0;
};

std::vector<Row> rows() {
  constexpr std::size_t kManyColumns = 4096;  // only scales of whole rows depend on it
  std::vector<Row> out;
  for (const FormatFamily& family : format_families()) {
    const AnyFormat format = parse_format(family.name);
    out.push_back(
        {family, format.info(), QuantizedMatrix(format, 1, kManyColumns).bits_per_element()});
  }
  return out;
}

std::string group_text(const FormatInfo& info) {
  return info.group == 0 ? "row" : std::to_string(info.group);
}

/// Bars separate the cells of a table.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

void print_markdown() {
  fmt::print("| format | what it is | bits | group | scale | layout | options, default first |\n");
  fmt::print("| --- | --- | --- | --- | --- | --- | --- |\n");
  for (const Row& row : rows()) {
    fmt::print("| `{}` | {} | {:.4g} | {} | {}{} | {} | {} |\n", row.family.name,
               escaped(row.family.summary), row.bits, group_text(row.info),
               scale_type_name(row.info.scale_type), row.info.tensor_scale ? " + f32" : "",
               layout_name(row.info.layout), escaped(row.family.options));
  }
}

void run_formats(const Options& options) {
  if (options.markdown) return print_markdown();
  if (options.json) {
    Json out = Json::array();
    for (const Row& row : rows()) {
      out.push_back({{"name", row.family.name},
                     {"summary", row.family.summary},
                     {"options", row.family.options},
                     {"bits_per_element", row.bits},
                     {"group", row.info.group},
                     {"scale_type", scale_type_name(row.info.scale_type)},
                     {"layout", layout_name(row.info.layout)},
                     {"tensor_scale", row.info.tensor_scale}});
    }
    return print_json(out);
  }
  for (const Row& row : rows()) {
    fmt::print("{:<8}  {}\n", row.family.name, row.family.summary);
    fmt::print("{:<8}  {:.4g} bits, group {}, {}{} scales, {}\n", "", row.bits,
               group_text(row.info), scale_type_name(row.info.scale_type),
               row.info.tensor_scale ? " + f32" : "", layout_name(row.info.layout));
    if (!row.family.options.empty()) fmt::print("{:<8}  {}\n", "", row.family.options);
  }
}

}  // namespace

void add_formats_command(CLI::App& app) {
  CLI::App& command = *app.add_subcommand("formats", "Formats and their options (defaults first)");
  const auto options = std::make_shared<Options>();
  add_json_option(command, options->json);
  command.add_flag("--markdown", options->markdown, "Print a GitHub table")->excludes("--json");
  command.callback([options] { run_formats(*options); });
}

}  // namespace nybble::cli
