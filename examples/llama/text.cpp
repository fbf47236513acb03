#include "text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "nybble/error.h"
#include "nybble/io/mapped_file.h"

namespace llama {
namespace {

using nybble::Error;
using nybble::ErrorCode;

}  // namespace

std::vector<Token> read_tokens(const std::filesystem::path& file, const Config& config) {
  const nybble::MappedFile mapped(file);
  const std::span<const std::byte> bytes = mapped.bytes();
  if (bytes.size() % 2 != 0) {
    throw Error(ErrorCode::bad_file, fmt::format("{}: {} bytes, expected pairs (uint16 token ids)",
                                                 file.string(), bytes.size()));
  }
  std::vector<Token> tokens(bytes.size() / 2);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] =
        std::to_integer<Token>(bytes[2 * i]) + 256 * std::to_integer<Token>(bytes[2 * i + 1]);
    if (tokens[i] >= config.vocab_size) {
      throw Error(ErrorCode::bad_file, fmt::format("{}: token {} is {}, the vocabulary has {}",
                                                   file.string(), i, tokens[i], config.vocab_size));
    }
  }
  return tokens;
}

std::vector<Token> read_text(const std::filesystem::path& file, const Config& config) {
  if (!config.is_byte_model()) {
    throw Error(ErrorCode::bad_option,
                fmt::format("--text needs a model of 256 tokens (bytes), this one has {}: use "
                            "--tokens",
                            config.vocab_size));
  }
  const nybble::MappedFile mapped(file);
  std::vector<Token> tokens;
  tokens.reserve(mapped.bytes().size());
  for (const std::byte byte : mapped.bytes()) tokens.push_back(std::to_integer<Token>(byte));
  return tokens;
}

std::vector<Token> parse_prompt(std::string_view text, const Config& config) {
  std::vector<Token> tokens;
  if (config.is_byte_model()) {
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  } else {
    constexpr std::string_view kBlanks = " ,\t\n";
    for (std::size_t begin = 0; (begin = text.find_first_not_of(kBlanks, begin)) != text.npos;) {
      const std::size_t end = std::min(text.find_first_of(kBlanks, begin), text.size());
      const std::string_view word = text.substr(begin, end - begin);
      Token token = 0;
      const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), token);
      if (error != std::errc() || stop != word.data() + word.size() || token >= config.vocab_size) {
        throw Error(ErrorCode::bad_option,
                    fmt::format("--prompt: \"{}\", expected token ids from 0 to {}", word,
                                config.vocab_size - 1));
      }
      tokens.push_back(token);
      begin = end;
    }
  }
  if (tokens.empty()) tokens.push_back(config.first_token());
  return tokens;
}

std::string token_text(Token token, const Config& config) {
  if (config.is_byte_model()) return std::string(1, static_cast<char>(token));
  return fmt::format("{} ", token);
}

}  // namespace llama
