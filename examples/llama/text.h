#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "config.h"

namespace llama {

/// Reads token ids, uint16 little endian. Throws io; bad_file for an odd size or an id outside the
/// vocabulary.
std::vector<Token> read_tokens(const std::filesystem::path& file, const Config& config);
/// Reads a file of text, one token a byte. Throws io; bad_option unless the model's tokens are
/// bytes.
std::vector<Token> read_text(const std::filesystem::path& file, const Config& config);

/// What a user typed: bytes for byte models, else token ids between blanks or commas. Empty text is
/// the first token alone. Throws bad_option.
std::vector<Token> parse_prompt(std::string_view text, const Config& config);
/// How a token is printed: the byte, or its id and a blank.
std::string token_text(Token token, const Config& config);

}  // namespace llama
