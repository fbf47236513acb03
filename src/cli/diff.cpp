#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "commands.h"
#include "nybble/error.h"
#include "nybble/io/compare.h"
#include "output.h"
#include "text_table.h"

namespace nybble::cli {

namespace {

struct Options {
  std::string a, b, glob;
  std::optional<double> tolerance_db;
  std::size_t threads = 0;
  bool json = false;
};

/// Good enough for exit code 0.
bool passes(const TensorDifference& difference, const std::optional<double>& tolerance_db) {
  if (difference.equal) return true;
  return tolerance_db && difference.error && difference.error->sqnr_db >= *tolerance_db;
}

std::string verdict(const TensorDifference& difference) {
  if (difference.same_values) return "same values";
  if (difference.equal) return "equal but for signs of zeros";
  if (!difference.error) return difference.reason;
  return "";
}

std::string side_text(const TensorPair::Side& side) {
  return side.kind == TensorPair::Side::Kind::missing ? "-" : side.what;
}

void print_text(const std::vector<TensorDifference>& differences, const Options& options) {
  TextTable table({"tensor", "A", "B", "", "SQNR dB", "max error", "cosine", "MSE"}, 4);
  std::size_t identical = 0;
  std::size_t same = 0;
  std::size_t equal = 0;
  std::size_t failed = 0;
  for (const TensorDifference& difference : differences) {
    identical += difference.identical ? 1U : 0U;
    same += difference.same_values && !difference.identical ? 1U : 0U;
    equal += difference.equal && !difference.same_values ? 1U : 0U;
    failed += passes(difference, options.tolerance_db) ? 0U : 1U;
    if (difference.identical) continue;
    std::vector<std::string> row = {printable(difference.pair.name), side_text(difference.pair.a),
                                    side_text(difference.pair.b), printable(verdict(difference))};
    if (difference.error) {
      const ErrorMetrics& error = *difference.error;
      row.insert(row.end(),
                 {fmt::format("{:.2f}", error.sqnr_db), fmt::format("{:.4g}", error.max_error),
                  fmt::format("{:.6f}", error.cosine), fmt::format("{:.4g}", error.mse)});
    } else {
      row.insert(row.end(), {"-", "-", "-", "-"});
    }
    table.add(std::move(row));
  }
  if (identical != differences.size()) fmt::print("{}\n", table.text());
  fmt::print("{} compared: {} identical, {} more with the same values", differences.size(),
             identical, same);
  if (equal != 0) fmt::print(", {} more equal but for signs of zeros", equal);
  if (options.tolerance_db) {
    fmt::print("; {} below {} dB or not comparable", failed, *options.tolerance_db);
  }
  fmt::print("\n");
}

Json json_of(const TensorPair::Side& side) {
  if (side.kind == TensorPair::Side::Kind::missing) return {};
  return {{"name", side.name}, {"what", side.what}, {"shape", side.shape}};
}

Json json_of(const TensorDifference& difference) {
  const std::optional<ErrorMetrics>& error = difference.error;
  const auto number = [&](double ErrorMetrics::*member) {
    return error ? Json((*error).*member) : Json();
  };
  return {{"name", difference.pair.name},
          {"a", json_of(difference.pair.a)},
          {"b", json_of(difference.pair.b)},
          {"identical", difference.identical},
          {"same_values", difference.same_values},
          {"equal", difference.equal},
          {"sqnr_db", number(&ErrorMetrics::sqnr_db)},
          {"max_error", number(&ErrorMetrics::max_error)},
          {"cosine", number(&ErrorMetrics::cosine)},
          {"mse", number(&ErrorMetrics::mse)},
          {"reason", difference.reason.empty() ? Json() : Json(difference.reason)}};
}

void run(const Options& options) {
  const std::unique_ptr<Executor> executor = make_thread_executor(options.threads);
  warn_ignored_index(options.a);
  warn_ignored_index(options.b);
  const QuantizedCheckpoint a(options.a);
  const QuantizedCheckpoint b(options.b);
  std::vector<TensorDifference> differences;
  for (const TensorPair& pair : pair_tensors(a, b)) {
    if (!options.glob.empty() && fnmatch(options.glob.c_str(), pair.name.c_str(), 0) != 0) continue;
    differences.push_back(compare(a, b, pair, *executor));
  }
  if (differences.empty()) {
    throw Error(ErrorCode::bad_option,
                options.glob.empty()
                    ? fmt::format("{} and {}: no tensors to compare", options.a, options.b)
                    : fmt::format("--layer {}: matches no layer or tensor", options.glob));
  }
  sort_worst_first(differences);
  const bool good = std::all_of(differences.begin(), differences.end(), [&](const auto& found) {
    return passes(found, options.tolerance_db);
  });
  if (options.json) {
    Json tensors = Json::array();
    for (const TensorDifference& difference : differences) tensors.push_back(json_of(difference));
    print_json({{"a", options.a},
                {"b", options.b},
                {"tolerance_db", options.tolerance_db ? Json(*options.tolerance_db) : Json()},
                {"good", good},
                {"tensors", std::move(tensors)}});
  } else {
    print_text(differences, options);
  }
  finish(good);
}

}  // namespace

void add_diff_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App& command = *app.add_subcommand(
      "diff", "How two checkpoints, or a quantized one and its original, differ; worst first");
  command.add_option("A", options->a, "A checkpoint, quantized or not")->required();
  command.add_option("B", options->b, "Another one")->required();
  command.add_option("--layer", options->glob, "Only layers and tensors that match this glob");
  command.add_option("--tolerance-db", options->tolerance_db,
                     "The SQNR that is good enough (default: all values must be equal)");
  add_threads_option(command, options->threads);
  add_json_option(command, options->json);
  command.footer(
      "A quantized layer NAME is compared with a tensor NAME.weight or NAME by its effective\n"
      "weights: transforms are undone. Errors are relative to the one that is not quantized, or\n"
      "else to A. Identical: the same codes, scales and zero points, or the same type and "
      "bytes.\n" +
      exit_codes("all values equal (+0 and -0 are), or each SQNR at least --tolerance-db and "
                 "nothing missing,\n"
                 "            1 otherwise,"));
  command.callback([options] { run(*options); });
}

}  // namespace nybble::cli
