#include "nybble/io/convert.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "nybble/format/registry.h"
#include "nybble/io/compare.h"
#include "nybble/io/gguf.h"
#include "nybble/io/quantized_checkpoint.h"
#include "nybble/quantize/rtn.h"
#include "src/io/layout/layout.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/random.h"

namespace nybble {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kRows = 64;
constexpr std::size_t kCols = 128;

/// Layers that some file holds, and what may be peculiar about them.
struct Kind {
  std::string name, spec;
  std::function<void(StoredLayer&)> change = [](StoredLayer& /*layer*/) {};
};

void permute(StoredLayer& layer) {
  std::vector<std::uint32_t>& source = layer.transforms.permutation.source;
  source.resize(kCols);
  std::iota(source.begin(), source.end(), 0U);
  std::rotate(source.begin(), source.begin() + 40, source.end());
}

std::vector<Kind> kinds() {
  return {{"int4", "int4"},
          {"int4 of 128", "int4:group=128"},
          {"int4 of 64 with bf16 scales", "int4:group=64,scale=bf16"},
          {"int4 with zero points", "int4:group=64,zero_point=true"},
          {"int4 with other groups", "int4:group=32,zero_point=true", permute},
          {"int4 without g_idx", "int4:group=64,zero_point=true",
           [](StoredLayer& layer) { layer.details["gptq.g_idx"] = "none"; }},
          {"int4 a row", "int4:group=row"},
          {"nf4", "nf4"},
          {"nf4 twice quantized", "nf4:double=true"},
          {"nf4 spelled otherwise", "nf4",
           [](StoredLayer& layer) {
             layer.details["bitsandbytes.quant_state"] = fmt::format(
                 R"({{"shape": [{},{}], "quant_type":"nf4","blocksize":64,"dtype":"float16"}})",
                 kRows, kCols);
           }},
          {"nf4 twice quantized in blocks of four rows", "nf4:block=128,double=true",
           [](StoredLayer& layer) {
             std::vector<std::uint8_t>& scales = layer.weight.scales;
             for (std::size_t row = 0; row < kRows; ++row) scales[row] = scales[row / 4 * 4];
             layer.details["bitsandbytes.quant_state"] =
                 fmt::format(R"({{"quant_type": "nf4", "blocksize": 512, "dtype": "bfloat16", )"
                             R"("shape": [{}, {}], "nested_blocksize": 256, )"
                             R"("nested_dtype": "float32", "nested_offset": {}}})",
                             kRows, kCols, static_cast<double>(layer.weight.nested_offset));
           }},
          {"bitsandbytes' fp4", "fp4_bnb"},
          {"mxfp4", "mxfp4"},
          {"mxfp4 of another rule", "mxfp4:rule=even"},
          {"nvfp4", "nvfp4"},
          {"nvfp4 with a divisor", "nvfp4",
           [](StoredLayer& layer) {
             layer.weight.tensor = {1.0F / 3000.0F, 0, 3000.0F};
           }},
          {"nvfp4 with an input scale", "nvfp4",
           [](StoredLayer& layer) {
             layer.weight.tensor = {0.25F, 0, 0};
             layer.input_scale = TensorScale{0.5F};
           }},
          {"nvfp4 by four over six", "nvfp4:search=4over6"},
          {"iq4_nl", "iq4_nl"},
          {"amxfp4", "amxfp4"},
          {"amxfp4 rotated", "amxfp4", [](StoredLayer& layer) {
             layer.transforms.hadamard.block = 128;
             layer.transforms.hadamard.signs.assign(kCols, -1.0F);
             layer.transforms.channel_scale.scale.assign(kCols, 0.5F);
           }}};
}

std::vector<StoredLayer> layers_of(const Kind& kind) {
  SerialExecutor serial;
  std::vector<StoredLayer> out;
  for (const char* name : {"model.layers.0.q_proj", "model.layers.0.k_proj"}) {
    const std::vector<float> weight = test::normal_values(kRows * kCols, out.size() + 1);
    QuantizedMatrix matrix =
        quantize_rtn({weight.data(), kRows, kCols}, parse_format(kind.spec), serial);
    out.push_back({name, {kRows, kCols}, std::move(matrix), {}});
    kind.change(out.back());
  }
  return out;
}

const std::vector<float>& norm() {
  static const std::vector<float> values = test::normal_values(kCols, 9);
  return values;
}

/// A checkpoint in that layout as another tool would have left it. Throws unsupported where the
/// layout cannot hold it.
fs::path write(const test::TemporaryFolder& folder, const std::string& name,
               const std::string& layout_name, const std::vector<StoredLayer>& layers) {
  const std::vector<std::size_t> norm_shape = {kCols};
  const auto norm_bytes = std::as_bytes(std::span(norm()));
  if (layout_name == "gguf") {
    const fs::path path = folder / (name + ".gguf");
    GgufWriter writer(path);
    writer.set("format", std::string("pt"));
    writer.add("model.norm.weight", GgufType::f32, norm_shape, norm_bytes);
    for (const StoredLayer& layer : layers) add_layer(writer, layer);
    writer.finish();
    return path;
  }
  const io::Layout& layout = io::find_layout(layout_name);
  std::vector<io::WrittenLayer> written;
  for (const StoredLayer& layer : layers) written.push_back(layout.write(layer));
  const fs::path path = folder / name;
  fs::create_directories(path);
  SafetensorsWriter writer(path / "model.safetensors");
  writer.set_metadata("format", "pt");
  writer.add("model.norm.weight", TensorType::f32, norm_shape, norm_bytes);
  for (const io::WrittenLayer& layer : written) {
    for (const io::OwnedTensor& tensor : layer.tensors) {
      writer.add(tensor.name, tensor.type, tensor.shape, tensor.bytes);
    }
    for (const auto& [key, value] : layer.metadata) writer.set_metadata(key, value);
  }
  writer.finish();
  nlohmann::ordered_json config;
  config["hidden_size"] = kCols;
  config["quantization_config"] = layout.config(layers[0].weight.format, {});
  if (config["quantization_config"].is_object()) {
    for (const StoredLayer& layer : layers) layout.amend(config["quantization_config"], layer);
  } else {
    config.erase("quantization_config");
  }
  test::write_text(path / "config.json", config.dump(2) + "\n");
  test::write_text(path / "tokenizer.json", "{}");
  return path;
}

std::string weights(const fs::path& path) {
  return test::read_text(fs::is_directory(path) ? path / "model.safetensors" : path);
}

/// Where a conversion goes: nothing is there yet.
fs::path target(const test::TemporaryFolder& folder, const std::string& name,
                const std::string& layout) {
  return folder / (layout == "gguf" ? name + ".gguf" : name);
}

/// Thousands of files are brought to the disk there: where they can be, in memory.
std::string memory_folder() {
  return ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : testing::TempDir();
}

/// Whether it was converted; otherwise that it was refused as it should be.
bool convert(const fs::path& from, const fs::path& to, const std::string& layout,
             const std::string& what) {
  SerialExecutor serial;
  ConvertOptions options;
  options.layout = layout;
  try {
    convert_checkpoint(from, to, options, serial);
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported) << what << ": " << error.what();
    EXPECT_NE(std::string(error.what()).find("model.layers.0.q_proj"), std::string::npos)
        << what << ": " << error.what();
    EXPECT_FALSE(fs::exists(to)) << what;
  }
  return false;
}

TEST(Convert, ThereAndBackIsTheSameBytesOrRefusedForEveryPairOfLayouts) {
  std::map<std::string, int> converted;
  for (const std::string& first : convert_layout_names()) {
    for (const Kind& kind : kinds()) {
      const test::TemporaryFolder folder(memory_folder());
      fs::path original;
      try {
        original = write(folder, "original", first, layers_of(kind));
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), ErrorCode::unsupported) << first << " " << kind.name;
        continue;  // no such file
      }
      for (const std::string& second : convert_layout_names()) {
        const std::string what = first + " to " + second + ", " + kind.name;
        const fs::path there = target(folder, "there-" + second, second);
        if (!convert(original, there, second, what)) {
          EXPECT_NE(second, "nybble") << "holds everything: " << what;
          continue;
        }
        const QuantizedCheckpoint checkpoint(there);
        ASSERT_EQ(checkpoint.layers().size(), 2U) << what;
        EXPECT_EQ(checkpoint.layers()[0].layout, second) << what;
        const fs::path back = target(folder, "back-" + second, first);
        SerialExecutor serial;
        ConvertOptions options;
        options.layout = first;
        ASSERT_NO_THROW(convert_checkpoint(there, back, options, serial)) << what;
        EXPECT_EQ(weights(back), weights(original)) << what;
        if (first != "gguf" && second != "gguf") {
          EXPECT_EQ(test::read_text(back / "config.json"),
                    test::read_text(original / "config.json"))
              << what;
          EXPECT_EQ(test::read_text(there / "tokenizer.json"), "{}") << what;
        }
        ++converted[first + " to " + second];
      }
    }
    EXPECT_GT(converted[first + " to " + first], 0) << first;
    EXPECT_GT(converted[first + " to nybble"], 0) << first;
  }
  for (const char* pair :
       {"gptq to gptq_v2", "gptq to awq_gemm", "awq_gemv to gptq", "gptq to compressed_tensors",
        "compressed_tensors_nvfp4 to nybble", "modelopt_nvfp4 to gguf",
        "compressed_tensors_mxfp4 to gguf", "gguf to gptq", "nybble to bitsandbytes"}) {
    EXPECT_GT(converted[pair], 0) << pair;
  }
}

TEST(Convert, DetailsAreDroppedOnlyWhereThatIsAskedFor) {
  const test::TemporaryFolder folder;
  SerialExecutor serial;
  const Kind kind{"", "int4:group=64,zero_point=true",
                  [](StoredLayer& layer) { layer.details["gptq.g_idx"] = "none"; }};
  const fs::path original = write(folder, "original", "gptq", layers_of(kind));
  ConvertOptions options;
  options.layout = "awq_gemm";
  test::expect_error(ErrorCode::unsupported, {"q_proj", "g_idx", "awq_gemm", "--drop-details"},
                     [&] { convert_checkpoint(original, folder / "refused", options, serial); });
  EXPECT_FALSE(fs::exists(folder / "refused"));
  options.drop_details = true;
  convert_checkpoint(original, folder / "dropped", options, serial);
  const QuantizedCheckpoint a(original);
  const QuantizedCheckpoint b(folder / "dropped");
  for (const TensorPair& pair : pair_tensors(a, b)) {
    EXPECT_TRUE(compare(a, b, pair, serial).identical) << pair.name;
  }
}

/// Sets a member of the checkpoint's quantization_config.
void say(const fs::path& checkpoint, const std::string& pointer,
         const nlohmann::ordered_json& value) {
  auto config = nlohmann::ordered_json::parse(test::read_text(checkpoint / "config.json"));
  config["quantization_config"][nlohmann::ordered_json::json_pointer(pointer)] = value;
  test::write_text(checkpoint / "config.json", config.dump(2) + "\n");
}

TEST(Convert, TheConfigSaysWhatItSaidOrTheConversionIsRefused) {
  const test::TemporaryFolder folder;
  SerialExecutor serial;
  const fs::path original =
      write(folder, "original", "compressed_tensors", layers_of({"", "int4"}));
  say(original, "/kv_cache_scheme", {{"num_bits", 8}});
  const std::string config = test::read_text(original / "config.json");
  ConvertOptions options;
  const auto to = [&](const fs::path& from, const std::string& name, const char* layout) {
    options.layout = layout;
    convert_checkpoint(from, folder / name, options, serial);
    return folder / name;
  };
  EXPECT_EQ(test::read_text(to(original, "same", "compressed_tensors") / "config.json"), config);
  const fs::path ours = to(original, "ours", "nybble");
  EXPECT_EQ(test::read_text(to(ours, "back", "compressed_tensors") / "config.json"), config);
  for (const fs::path& from : {original, ours}) {
    options.layout = "gptq";
    test::expect_error(ErrorCode::unsupported, {"kv_cache_scheme", "gptq"},
                       [&] { convert_checkpoint(from, folder / "refused", options, serial); });
  }
  options.drop_details = true;
  const fs::path dropped = to(original, "dropped", "gptq");
  EXPECT_EQ(test::read_text(dropped / "config.json").find("kv_cache"), std::string::npos);
}

TEST(Convert, LayersLeftAloneStayThat) {
  const test::TemporaryFolder folder;
  SerialExecutor serial;
  std::vector<StoredLayer> layers = layers_of({"", "nvfp4"});
  for (StoredLayer& layer : layers) {
    layer.weight.tensor = {0.25F};
    layer.input_scale = TensorScale{0.5F};
  }
  const fs::path original = write(folder, "original", "modelopt_nvfp4", layers);
  ConvertOptions options;
  options.layout = "compressed_tensors_nvfp4";
  convert_checkpoint(original, folder / "ct", options, serial);
  const auto config = nlohmann::json::parse(test::read_text(folder / "ct" / "config.json"));
  // Activations are quantized as before.
  const nlohmann::json& group = config["quantization_config"]["config_groups"]["group_0"];
  EXPECT_EQ(group["input_activations"]["num_bits"], 4);
  EXPECT_EQ(group["input_activations"]["dynamic"], "local");
  // Modules with floats, other than embeddings and the head, are named for GPTQ's readers.
  const std::vector<std::string> plain = {"lm_head", "model.embed_tokens", "model.0.gate"};
  EXPECT_EQ(io::find_layout("gptq").config(parse_format("int4"), plain)["dynamic"],
            (nlohmann::ordered_json{{"-:^model\\.0\\.gate$", nlohmann::ordered_json::object()}}));
}

TEST(Convert, AGgufFileIsKnownByItsBeginningNotItsName) {
  const test::TemporaryFolder folder;
  SerialExecutor serial;
  const fs::path original = write(folder, "original", "gguf", layers_of({"", "mxfp4"}));
  fs::rename(original, folder / "original.bin");
  ConvertOptions options;
  options.layout = "nybble";
  EXPECT_EQ(convert_checkpoint(folder / "original.bin", folder / "new", options, serial).layers,
            2U);
}

TEST(Convert, GgufsOwnKeysAreDetails) {
  const test::TemporaryFolder folder;
  SerialExecutor serial;
  const std::vector<StoredLayer> layers = layers_of({"", "mxfp4"});
  GgufWriter writer(folder / "original.gguf");
  writer.set("general.file_type", std::uint32_t{38});
  for (const StoredLayer& layer : layers) add_layer(writer, layer);
  writer.finish();
  ConvertOptions options;
  options.layout = "nybble";
  const auto convert = [&] {
    convert_checkpoint(folder / "original.gguf", folder / "new", options, serial);
  };
  test::expect_error(ErrorCode::unsupported, {"general.file_type", "--drop-details"}, convert);
  options.drop_details = true;
  EXPECT_NO_THROW(convert());
}

TEST(Convert, RequantizingIsAskedForByName) {
  const test::TemporaryFolder folder;
  SerialExecutor serial;
  const fs::path original = write(folder, "original", "gptq", layers_of({"", "int4"}));
  ConvertOptions options;
  options.layout = "bitsandbytes";
  test::expect_error(ErrorCode::unsupported, {"q_proj", "int4"},
                     [&] { convert_checkpoint(original, folder / "no", options, serial); });
  options.format = "nf4";
  const ConvertReport report = convert_checkpoint(original, folder / "yes", options, serial);
  EXPECT_EQ(report.layers, 2U);
  EXPECT_EQ(report.tensors, 1U);
  const QuantizedCheckpoint a(original);
  const QuantizedCheckpoint b(folder / "yes");
  for (const TensorPair& pair : pair_tensors(a, b)) {
    const TensorDifference found = compare(a, b, pair, serial);
    if (pair.a.kind == TensorPair::Side::Kind::tensor) {
      EXPECT_TRUE(found.identical) << pair.name;
    } else {
      EXPECT_FALSE(found.same_values);
      EXPECT_GT(found.error->sqnr_db, 15) << pair.name;
    }
  }
}

TEST(Convert, ShardsAreWrittenWithAnIndex) {
  const test::TemporaryFolder folder;
  SerialExecutor serial;
  const fs::path original = write(folder, "original", "gptq", layers_of({"", "int4"}));
  ConvertOptions options;
  options.layout = "gptq_v2";
  options.shard_bytes = 5000;
  convert_checkpoint(original, folder / "shards", options, serial);
  EXPECT_TRUE(fs::exists(folder / "shards" / "model.safetensors.index.json"));
  options.layout = "gptq";
  options.shard_bytes = 1'000'000;
  convert_checkpoint(folder / "shards", folder / "whole", options, serial);
  EXPECT_EQ(weights(folder / "whole"), weights(original));
}

/// Sets a flag when it is asked for its nth loop.
class CancellingExecutor final : public Executor {
 public:
  CancellingExecutor(std::size_t loops, std::atomic<bool>& cancel)
      : loops_(loops), cancel_(cancel) {}
  [[nodiscard]] std::size_t concurrency() const noexcept override { return 1; }
  void parallel_for(std::size_t count, TaskRef task) override {
    if (loops_-- == 0) cancel_.store(true);
    serial_.parallel_for(count, task);
  }

 private:
  std::size_t loops_;
  std::atomic<bool>& cancel_;
  SerialExecutor serial_;
};

TEST(Convert, NothingIsLeftWhereItIsCancelled) {
  const test::TemporaryFolder folder;
  const fs::path original = write(folder, "original", "gptq", layers_of({"", "int4"}));
  for (const char* layout : {"gguf", "nybble"}) {
    const test::TemporaryFolder out;
    ConvertOptions options;
    options.layout = layout;
    options.format = "mxfp4";  // takes loops
    std::size_t loops = 0;
    for (bool done = false; !done; ++loops) {
      std::atomic<bool> cancel{false};
      options.cancel = &cancel;
      CancellingExecutor executor(loops, cancel);
      try {
        convert_checkpoint(original, target(out, "new", layout), options, executor);
        done = true;
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), ErrorCode::cancelled) << error.what();
        EXPECT_NE(std::string(error.what()).find("new"), std::string::npos) << error.what();
        fs::remove(out / "new");  // an empty folder, or this fails
        EXPECT_TRUE(fs::is_empty(out.path())) << layout << " after " << loops << " loops";
      }
    }
    EXPECT_GT(loops, 4U) << layout;
  }
}

TEST(Convert, NothingIsOverwritten) {
  const test::TemporaryFolder folder;
  SerialExecutor serial;
  const fs::path original = write(folder, "original", "gptq", layers_of({"", "int4"}));
  const std::string before = weights(original);
  ConvertOptions options;
  options.layout = "gptq_v2";
  test::expect_error(ErrorCode::bad_option, {"original"},
                     [&] { convert_checkpoint(original, original, options, serial); });
  fs::create_directories(folder / "other");
  test::write_text(folder / "other" / "model.safetensors", "theirs");
  test::expect_error(ErrorCode::bad_option, {"other"},
                     [&] { convert_checkpoint(original, folder / "other", options, serial); });
  EXPECT_EQ(test::read_text(folder / "other" / "model.safetensors"), "theirs");
  test::write_text(folder / "other.gguf", "theirs");
  options.layout = "gguf";
  test::expect_error(ErrorCode::bad_option, {"other.gguf", "is there already"},
                     [&] { convert_checkpoint(original, folder / "other.gguf", options, serial); });
  EXPECT_EQ(test::read_text(folder / "other.gguf"), "theirs");
  options.layout = "gptq_v2";
  EXPECT_EQ(weights(original), before);
  options.layout = "no_such";
  test::expect_error(ErrorCode::bad_option, {"no_such"},
                     [&] { convert_checkpoint(original, folder / "new", options, serial); });
  test::expect_error(ErrorCode::bad_option, {"no quantized layers"}, [&] {
    SafetensorsWriter writer(folder / "plain.safetensors");
    const std::vector<std::size_t> shape = {kCols};
    writer.add("norm", TensorType::f32, shape, std::as_bytes(std::span(norm())));
    writer.finish();
    ConvertOptions nybble;
    nybble.layout = "nybble";
    convert_checkpoint(folder / "plain.safetensors", folder / "new", nybble, serial);
  });
  EXPECT_FALSE(fs::exists(folder / "new"));
}

}  // namespace
}  // namespace nybble
