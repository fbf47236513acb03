#pragma once

#include <cstddef>
#include <string>

#include "output.h"

/// The words and the look of the report.
namespace nybble::cli {

/// CSS: light and dark, one column on a phone, charts side by side where there is room.
const char* report_style();

/// A number of four digits; "-" for null.
std::string number(const Json& value);
/// Two decimals; "-" for null.
std::string decibels(const Json& value);
/// SQNR of a layer or tensor: no error is infinite, and null in JSON, as where there are no values.
std::string sqnr_text(const Json& entry);
/// "24 x 64", its shape.
std::string shape_of(const Json& entry);
/// Digits in threes.
std::string with_thousands(std::size_t count);
/// "12.5 %"; "-" of nothing.
std::string percent(std::size_t part, std::size_t whole);
/// A name may be broken after its dots, a number may not.
std::string breakable(const std::string& text);

}  // namespace nybble::cli
