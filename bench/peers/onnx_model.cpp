#include "bench/peers/onnx_model.h"

#include <string_view>

namespace nybble::peers {

namespace {

/// A message of protocol buffers, fields appended in any order: a tag (number and wire type), then
/// a variable-length integer or a length and bytes.
class Message {
 public:
  Message& integer(std::uint32_t field, std::uint64_t value) {
    variable_length(field << 3);
    variable_length(value);
    return *this;
  }
  Message& bytes(std::uint32_t field, std::string_view value) {
    variable_length(field << 3 | 2);
    variable_length(value.size());
    bytes_.append(value);
    return *this;
  }
  Message& message(std::uint32_t field, const Message& value) { return bytes(field, value.bytes_); }
  [[nodiscard]] std::string take() { return std::move(bytes_); }

 private:
  void variable_length(std::uint64_t value) {
    for (; value >= 128; value >>= 7) bytes_.push_back(static_cast<char>((value & 127) | 128));
    bytes_.push_back(static_cast<char>(value));
  }
  std::string bytes_;
};

// Field numbers and types of onnx.proto.
constexpr std::uint64_t kFloat = 1;
constexpr std::uint64_t kUint8 = 2;
constexpr std::uint64_t kIntegerAttribute = 2;

Message attribute(std::string_view name, std::uint64_t value) {
  return Message().bytes(1, name).integer(3, value).integer(20, kIntegerAttribute);
}

Message tensor(std::string_view name, std::uint64_t type, std::initializer_list<std::size_t> dims,
               std::string_view data) {
  Message out;
  for (const std::size_t dim : dims) out.integer(1, dim);
  return out.integer(2, type).bytes(8, name).bytes(9, data);
}

/// An f32 matrix with a free number of rows.
Message value_info(std::string_view name, std::size_t cols) {
  const Message shape =
      Message().message(1, Message().bytes(2, "m")).message(1, Message().integer(1, cols));
  const Message tensor_type = Message().integer(1, kFloat).message(2, shape);
  return Message().bytes(1, name).message(2, Message().message(1, tensor_type));
}

template <class T>
std::string_view raw(std::span<const T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

}  // namespace

std::string make_onnx_model(const BlockedWeights& weights, int accuracy_level) {
  const std::size_t blocks = weights.cols / weights.block;
  const Message node =
      Message()
          .bytes(1, "x")
          .bytes(1, "codes")
          .bytes(1, "scales")
          .bytes(2, "y")
          .bytes(3, "linear")
          .bytes(4, "MatMulNBits")
          .bytes(7, "com.microsoft")
          .message(5, attribute("K", weights.cols))
          .message(5, attribute("N", weights.rows))
          .message(5, attribute("bits", 4))
          .message(5, attribute("block_size", weights.block))
          .message(5, attribute("accuracy_level", static_cast<std::uint64_t>(accuracy_level)));
  const Message graph =
      Message()
          .message(1, node)
          .bytes(2, "linear")
          .message(5, tensor("codes", kUint8, {weights.rows, blocks, weights.block / 2},
                             raw(weights.codes)))
          .message(5, tensor("scales", kFloat, {weights.rows * blocks}, raw(weights.scales)))
          .message(11, value_info("x", weights.cols))
          .message(12, value_info("y", weights.rows));
  return Message()
      .integer(1, 8)  // the version of the file format
      .message(7, graph)
      .message(8, Message().bytes(1, "").integer(2, 17))
      .message(8, Message().bytes(1, "com.microsoft").integer(2, 1))
      .take();
}

}  // namespace nybble::peers
