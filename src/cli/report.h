#pragma once

#include <string>
#include <vector>

#include "checkpoint_numbers.h"
#include "nybble/executor.h"
#include "output.h"

/// `nybble report`: numbers first, as one JSON document; the page is made of nothing else.
namespace nybble::cli {

struct ReportSources {
  CheckpointArguments checkpoint;
  std::string original;             ///< a checkpoint to compare with; empty: none
  std::vector<std::string> sweeps;  ///< what `nybble sweep --out-json` wrote
  std::string events;               ///< what `nybble quantize --json` printed; empty: none
};

/// {"title", "path", "original", "reasons", "totals", "formats", "layers", "tensors", "sweeps",
/// "events"}; README has the rest. Reads one tensor at a time. Throws bad_file naming the file and
/// what is wrong in it, and what reading checkpoints throws.
Json report_numbers(const ReportSources& sources, Executor& executor);

/// The page: HTML with its style and charts in it, no scripts, nothing from elsewhere.
std::string report_page(const Json& numbers);

}  // namespace nybble::cli
