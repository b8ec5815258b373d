#pragma once

#include <filesystem>
#include <string>

namespace edgeqkv {

/// The SHA-256 (FIPS 180-4) of a file, in hexadecimal digits.
std::string sha256_of(const std::filesystem::path& file);

}  // namespace edgeqkv
