#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "nybble/io/sharded_writer.h"
#include "nybble/io/tensor_file.h"
#include "nybble/quantize/checkpoint.h"
#include "nybble/quantize/method.h"
#include "src/io/layout/layout.h"
#include "src/io/model_files.h"
#include "src/quantize/layer_inputs.h"

namespace nybble {

/// What a run needs of a plan.
struct CheckpointPlan::Data {
  /// Beside each PlannedTensor.
  struct Work {
    TensorFiles::Entry from;
    std::string layer;                     ///< the module's name; empty: it is copied
    std::shared_ptr<const Method> method;  ///< null: it is copied
    std::vector<TensorToWrite> written;    ///< what it becomes; without transforms if not exact
  };

  explicit Data(const CheckpointOptions& given);

  CheckpointOptions options;
  TensorFiles source;
  const io::Layout* layout;
  LayerInputs inputs;
  std::vector<PlannedTensor> tensors;
  std::vector<Work> work;
  std::map<std::string, std::string> metadata;  ///< of every file
  std::vector<io::ModelFile> model_files;
  std::vector<PlannedFile> files;
  std::vector<KeptOutFile> kept_out;
  bool exact = true;

 private:
  void decide();
  void describe();
  void plan_files();
};

/// Where all tensors go, `work` being the plan's with every Work::written known.
ShardPlan shard_plan(const CheckpointPlan::Data& plan,
                     const std::vector<std::vector<TensorToWrite>>& written);

}  // namespace nybble
