// AVX2: bytewise products are added in pairs into 16 bits, which saturate; so no more than four lines are summed there.
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

inline Sum zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }

inline void store(Sum a, int32_t* p) {
  _mm256_storeu_si256((__m256i*)p, a.low);
  _mm256_storeu_si256((__m256i*)(p + 8), a.high);
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
  return {_mm256_add_epi32(sum.low, _mm256_madd_epi16(a.low, x)), _mm256_add_epi32(sum.high, _mm256_madd_epi16(a.high, x))};
}

// Four lines at a time: at the third plane a product is at most 2 * 16 * 127, a pair twice that, four pairs 32,512.
template <int TILES, int TOKENS>
inline __attribute__((always_inline)) void tile(const uint8_t* codes, size_t, const int8_t* x, size_t, int groups,
                                                int32_t* sums) {
  static_assert(TILES == 1 && TOKENS == 1, "more accumulators than registers");
  const __m256i first = _mm256_set1_epi8(3), second = _mm256_set1_epi8(12), third = _mm256_set1_epi8(48);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int half = 0; half < 2; half++) {
    __m256i planes[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int g = 0; g < groups; g += 4) {
      const uint8_t* line = codes + (size_t)g * 64 + half * 32;
      __m256i pairs[4];
      for (int i = 0; i < 4; i++) {
        const __m256i w = _mm256_load_si256((const __m256i*)(line + i * 64));
        int32_t four;
        memcpy(&four, x + (size_t)(g + i) * 4, sizeof four);
        const __m256i a = _mm256_set1_epi32(four);
        const __m256i p0 = _mm256_maddubs_epi16(_mm256_and_si256(w, first), a);
        const __m256i p1 = _mm256_maddubs_epi16(_mm256_and_si256(w, second), a);
        const __m256i p2 = _mm256_maddubs_epi16(_mm256_and_si256(w, third), a);
        const __m256i p3 = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(w, 2), third), a);
        pairs[0] = i ? _mm256_add_epi16(pairs[0], p0) : p0;
        pairs[1] = i ? _mm256_add_epi16(pairs[1], p1) : p1;
        pairs[2] = i ? _mm256_add_epi16(pairs[2], p2) : p2;
        pairs[3] = i ? _mm256_add_epi16(pairs[3], p3) : p3;
      }
      for (int p = 0; p < 4; p++) planes[p] = _mm256_add_epi32(planes[p], _mm256_madd_epi16(pairs[p], ones));
    }
    _mm256_storeu_si256((__m256i*)(sums + half * 8), planes[0]);
    _mm256_storeu_si256((__m256i*)(sums + 16 + half * 8), _mm256_srai_epi32(planes[1], 2));
    _mm256_storeu_si256((__m256i*)(sums + 32 + half * 8), _mm256_srai_epi32(planes[2], 4));
    _mm256_storeu_si256((__m256i*)(sums + 48 + half * 8), _mm256_srai_epi32(planes[3], 4));
  }
}

// The sum of two bytewise products would saturate in 16 bits, so convolutions multiply 16-bit pairs.
#define BITMAR_PAIRS
constexpr int kConvWindows = 6;

inline void store(Pairs a, int16_t* p) {
  _mm256_storeu_si256((__m256i*)p, a.low);
  _mm256_storeu_si256((__m256i*)(p + 16), a.high);
}

// Sixteen channels of two rows.
inline Pairs interleave(const uint8_t* a, const uint8_t* b) {
  const __m128i x = _mm_loadu_si128((const __m128i*)a), y = _mm_loadu_si128((const __m128i*)b);
  return {_mm256_cvtepu8_epi16(_mm_unpacklo_epi8(x, y)), _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(x, y))};
}

inline Pairs interleave(const int8_t* a, const int8_t* b) {
  const __m128i x = _mm_loadu_si128((const __m128i*)a), y = _mm_loadu_si128((const __m128i*)b);
  return {_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(x, y)), _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(x, y))};
}

// Of one row, the other 0.
inline Pairs alone(const uint8_t* a) {
  return {_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)a)),
          _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(a + 8)))};
}

inline Sum add_products(Sum sum, Pairs a, Pairs b) {
  return {_mm256_add_epi32(sum.low, _mm256_madd_epi16(a.low, b.low)),
          _mm256_add_epi32(sum.high, _mm256_madd_epi16(a.high, b.high))};
}

// The first two or the last two of the fours of a line: bytes go to the upper halves of their places and are shifted down.
template <int HALF>
inline Pairs half_line(const int8_t* line) {
  constexpr int k = 2 * HALF;
  const __m256i places = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(-1, k, -1, k + 1, -1, k + 4, -1, k + 5, -1, k + 8, -1, k + 9, -1, k + 12, -1, k + 13));
  const auto widened = [&](const int8_t* p) {
    return _mm256_srai_epi16(_mm256_shuffle_epi8(_mm256_load_si256((const __m256i*)p), places), 8);
  };
  return {widened(line), widened(line + 32)};
}

#include "body-inl.h"

const Kernels kTable = BITMAR_TABLE("avx2");

}  // namespace

const Kernels& avx2_kernels() { return kTable; }

}  // namespace bitmar
