// AVX-VNNI: the 256-bit form of what avx512.cpp does, on processors without AVX-512.
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

#define BITMAR_WIDTH 8

namespace bitmar {
namespace {

constexpr int kTiles = 1, kTokens = 1, kQueries = 4, kSums = 4;

struct Sum {
  __m256i low, high;
};
typedef Sum Lines;

inline Sum zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }

inline void store(Sum a, int32_t* p) {
  _mm256_storeu_si256((__m256i*)p, a.low);
  _mm256_storeu_si256((__m256i*)(p + 8), a.high);
}

inline Lines lines(const uint8_t* p) {
  return {_mm256_load_si256((const __m256i*)p), _mm256_load_si256((const __m256i*)(p + 32))};
}

template <int PLANE>
inline Sum accumulate(Sum sum, Lines line, int32_t four) {
  const __m256i mask = _mm256_set1_epi8((char)((1 << 2 * (PLANE + 1)) - 1)), x = _mm256_set1_epi32(four);
  const Lines low = PLANE == 3 ? line : Lines{_mm256_and_si256(line.low, mask), _mm256_and_si256(line.high, mask)};
  return {_mm256_dpbusd_avx_epi32(sum.low, low.low, x), _mm256_dpbusd_avx_epi32(sum.high, low.high, x)};
}

inline void separate(Sum* planes) {
  for (int p = 3; p > 0; p--)
    planes[p] = {_mm256_srai_epi32(_mm256_sub_epi32(planes[p].low, planes[p - 1].low), 2 * p),
                 _mm256_srai_epi32(_mm256_sub_epi32(planes[p].high, planes[p - 1].high), 2 * p)};
}

typedef Sum Pairs;

inline Pairs load_pairs(const int16_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 16))};
}

inline Pairs load_pairs(const int8_t* p) {
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(p + 16)))};
}

inline Sum add_pairs(Sum sum, Pairs a, int32_t pair) {
  const __m256i x = _mm256_set1_epi32(pair);
  return {_mm256_dpwssd_avx_epi32(sum.low, a.low, x), _mm256_dpwssd_avx_epi32(sum.high, a.high, x)};
}

typedef Sum Quads;
typedef Sum QuadSums;
constexpr int kConvBlocks = 1, kConvPixels = 6;
constexpr uint32_t kFlip = 0;

inline QuadSums no_quads() { return zero(); }
inline Quads load_quads(const int8_t* p) {
  return {_mm256_load_si256((const __m256i*)p), _mm256_load_si256((const __m256i*)(p + 32))};
}
inline __m256i spread(uint32_t four) { return _mm256_set1_epi32((int)four); }
inline QuadSums add_quads(QuadSums sum, Quads w, __m256i x) {
  return {_mm256_dpbusd_avx_epi32(sum.low, x, w.low), _mm256_dpbusd_avx_epi32(sum.high, x, w.high)};
}
inline Sum total(QuadSums sum) { return sum; }

#include "tile-inl.h"
// The bodies read what tile-inl.h defines.
#include "body-inl.h"

const Kernels kTable = BITMAR_TABLE("avxvnni");

}  // namespace

const Kernels& avxvnni_kernels() { return kTable; }

}  // namespace bitmar
