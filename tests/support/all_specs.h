#pragma once

#include <string>
#include <vector>

namespace nybble::test {

/// Every format that the registry's option lists describe: all combinations of all values of all
/// options of all families, except those the parser refuses (double=true with scale=bf16, say). A
/// family that is added is in the tests that use this without being named there.
std::vector<std::string> all_specs();

/// The same with at most two options of each family changed from their defaults.
std::vector<std::string> few_specs();

}  // namespace nybble::test
