// Files: a model is quantized into the layout of another tool, converted to that of a third one,
// and one of its layers is read from there and run, without ever being quantized again.
#include "nybble/quantize/checkpoint.h"

#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <vector>

#include "nybble/io/convert.h"
#include "nybble/io/quantized_checkpoint.h"
#include "nybble/nybble.h"

namespace {

namespace fs = std::filesystem;

/// The outputs of a layer, whatever layout its checkpoint is in.
std::vector<float> run_layer(const fs::path& path, const char* name, const std::vector<float>& x,
                             nybble::Executor& threads) {
  const nybble::QuantizedCheckpoint checkpoint(path);
  for (const std::string& reason : checkpoint.reasons()) std::printf("  %s\n", reason.c_str());
  const nybble::StoredLayer layer = checkpoint.read(name);
  const nybble::QuantizedLinear linear(layer.weight, {.path = nybble::Path::a8}, threads,
                                       layer.transforms);
  std::vector<float> y(linear.rows());
  nybble::Workspace workspace;
  linear.run({x.data(), 1, linear.cols()}, {y.data(), 1, linear.rows()}, workspace, threads);
  return y;
}

int run(const fs::path& model, const fs::path& work) {
  const auto threads = nybble::make_thread_executor();

  // What is going to happen is known, and checked, before it does.
  const nybble::CheckpointPlan plan({.source = model,
                                     .format = "int4:group=128,zero_point=true",
                                     .layout = "gptq_v2",
                                     .rules = {nybble::parse_rule("*.o_proj=skip")}});
  const nybble::CheckpointReport report =
      nybble::quantize_checkpoint(plan, *threads, {.out = work / "gptq"});
  std::printf("%zu of %zu tensors quantized, SQNR %.1f dB\n", report.quantized, report.tensors,
              report.sqnr_db);

  // Without loss or not at all.
  nybble::ConvertOptions options;
  options.layout = "awq_gemm";
  nybble::convert_checkpoint(work / "gptq", work / "awq", options, *threads);

  const std::vector<float> x(128, 0.5F);
  const char* name = "model.layers.0.mlp.up_proj";
  const std::vector<float> from_gptq = run_layer(work / "gptq", name, x, *threads);
  const std::vector<float> from_awq = run_layer(work / "awq", name, x, *threads);
  std::printf("%s: y[0] = %.6f from both\n", name, static_cast<double>(from_awq[0]));
  return from_gptq == from_awq ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: checkpoint MODEL (such as examples/llama/model)\n");
    return 2;
  }
  const fs::path work = fs::temp_directory_path() / "nybble-example-checkpoint";
  fs::remove_all(work);
  int code = 1;
  try {
    code = run(argv[1], work);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  fs::remove_all(work);
  return code;
}
