#include "sha256.hpp"

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <vector>

namespace edgeqkv {
namespace {

using Words = std::array<std::uint32_t, 64>;

/// The first 32 bits of the fractional parts of a root of the first primes (FIPS 180-4, 4.2.2 and 5.3.3).
template <std::size_t size, typename Root>
std::array<std::uint32_t, size> fractions_of_primes(Root root) {
  std::array<std::uint32_t, size> words{};
  std::size_t found = 0;
  for (int number = 2; found < size; ++number) {
    bool prime = true;
    for (int divisor = 2; divisor * divisor <= number; ++divisor) prime = prime && number % divisor != 0;
    if (!prime) continue;
    const long double value = root(static_cast<long double>(number));
    words[found++] = static_cast<std::uint32_t>((value - std::floor(value)) * 4294967296.0L);
  }
  return words;
}

const Words kRounds = fractions_of_primes<64>([](long double prime) { return std::cbrt(prime); });
const auto kStart = fractions_of_primes<8>([](long double prime) { return std::sqrt(prime); });

void add_block(std::array<std::uint32_t, 8>& hash, const std::uint8_t* block) {
  Words words{};
  for (int i = 0; i < 16; ++i) {
    words[i] = block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
  }
  for (int i = 16; i < 64; ++i) {
    const std::uint32_t early = words[i - 15], late = words[i - 2];
    words[i] = words[i - 16] + words[i - 7] + (std::rotr(early, 7) ^ std::rotr(early, 18) ^ early >> 3) +
               (std::rotr(late, 17) ^ std::rotr(late, 19) ^ late >> 10);
  }
  auto [a, b, c, d, e, f, g, h] = hash;
  for (int i = 0; i < 64; ++i) {
    const std::uint32_t first = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + ((e & f) ^ (~e & g)) +
                                kRounds[i] + words[i];
    const std::uint32_t second =
        (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
  }
  const std::array<std::uint32_t, 8> added{a, b, c, d, e, f, g, h};
  for (int i = 0; i < 8; ++i) hash[i] += added[i];
}

}  // namespace

std::string sha256_of(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  std::array<std::uint32_t, 8> hash = kStart;
  std::vector<std::uint8_t> piece(1 << 16);
  std::uint64_t bytes = 0;
  while (true) {
    stream.read(reinterpret_cast<char*>(piece.data()), static_cast<std::streamsize>(piece.size()));
    const auto count = static_cast<std::size_t>(stream.gcount());
    bytes += count;
    const std::size_t whole = count / 64 * 64;
    for (std::size_t start = 0; start < whole; start += 64) add_block(hash, piece.data() + start);
    if (count == piece.size()) continue;
    // The rest, a one, zeros, and the length in bits.
    std::vector<std::uint8_t> rest(piece.begin() + static_cast<std::ptrdiff_t>(whole),
                                   piece.begin() + static_cast<std::ptrdiff_t>(count));
    rest.push_back(0x80);
    while (rest.size() % 64 != 56) rest.push_back(0);
    for (int shift = 56; shift >= 0; shift -= 8) rest.push_back(static_cast<std::uint8_t>(bytes * 8 >> shift));
    for (std::size_t start = 0; start < rest.size(); start += 64) add_block(hash, rest.data() + start);
    break;
  }
  std::string digits;
  for (const std::uint32_t word : hash) {
    for (int shift = 28; shift >= 0; shift -= 4) digits += "0123456789abcdef"[word >> shift & 15];
  }
  return digits;
}

}  // namespace edgeqkv
