// exp() for doubles that the compiler turns into vector code.
#pragma once

#include <cstdint>
#include <cstring>

namespace mqn {

// exp(x) for x <= 0, relative error below 1e-15; 0 for x < -700, NaN for NaN.
// Cody and Waite (1980) reduction x = k ln2 + r with |r| <= ln2/2, then the Taylor series of exp(r) to r^13,
// whose remainder is below 5e-18. No branches, no table: loops over it vectorise.
inline double fast_exp(double x) {
  constexpr double log2e = 1.4426950408889634074;
  constexpr double ln2_high = 6.93147180369123816490e-01;
  constexpr double ln2_low = 1.90821492927058770002e-10;
  constexpr double round_magic = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves round(x) in the low bits
  const double clamped = x < -700.0 ? -700.0 : x;
  const double shifted = clamped * log2e + round_magic;
  const double k = shifted - round_magic;
  const double r = (clamped - k * ln2_high) - k * ln2_low;
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  uint64_t bits = 0;
  std::memcpy(&bits, &shifted, sizeof(bits));
  // The low bits of `shifted` are k in two's complement; as an exponent they scale by 2^k.
  const uint64_t scale_bits = (bits + 1023U) << 52U;
  double scale = 0.0;
  std::memcpy(&scale, &scale_bits, sizeof(scale));
  const double value = p * scale;
  return x < -700.0 ? 0.0 : value;
}

}  // namespace mqn
