// AVX-512 with VNNI; with BITMAR_AMX also the matrix unit (amx.cpp). The codes stay where they are in the byte. Plane p is
// multiplied together with those below it, which takes one mask less than four planes apart; differences and shifts at the
// end undo both.
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

#define BITMAR_WIDTH 16

namespace bitmar {
namespace {

constexpr int kTiles = 2, kTokens = 4, kQueries = 8, kSums = 16;

typedef __m512i Sum;
typedef __m512i Lines;

inline Sum zero() { return _mm512_setzero_si512(); }
inline void store(Sum a, int32_t* p) { _mm512_storeu_si512(p, a); }
inline Lines lines(const uint8_t* p) { return _mm512_load_si512(p); }

template <int PLANE>
inline Sum accumulate(Sum sum, Lines line, int32_t four) {
  const Lines low = PLANE == 3 ? line : _mm512_and_si512(line, _mm512_set1_epi8((1 << 2 * (PLANE % 3 + 1)) - 1));
  return _mm512_dpbusd_epi32(sum, low, _mm512_set1_epi32(four));
}

inline void separate(Sum* planes) {
  for (int p = 3; p > 0; p--) planes[p] = _mm512_srai_epi32(_mm512_sub_epi32(planes[p], planes[p - 1]), 2 * p);
}

typedef __m512i Pairs;

inline Pairs load_pairs(const int16_t* p) { return _mm512_loadu_si512(p); }
inline Pairs load_pairs(const int8_t* p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p)); }
inline Sum add_pairs(Sum sum, Pairs a, int32_t pair) { return _mm512_dpwssd_epi32(sum, a, _mm512_set1_epi32(pair)); }

typedef __m512i Quads;
typedef Sum QuadSums;
constexpr int kConvBlocks = 2, kConvPixels = 7;
constexpr uint32_t kFlip = 0;

inline QuadSums no_quads() { return _mm512_setzero_si512(); }
inline Quads load_quads(const int8_t* p) { return _mm512_load_si512(p); }
inline Quads spread(uint32_t four) { return _mm512_set1_epi32((int)four); }
inline QuadSums add_quads(QuadSums sum, Quads w, Quads x) { return _mm512_dpbusd_epi32(sum, x, w); }
inline Sum total(QuadSums sum) { return sum; }

#include "tile-inl.h"
#if defined(BITMAR_AMX)
#include "amx-inl.h"
#endif
// The bodies read what tile-inl.h defines.
#include "body-inl.h"

#if defined(BITMAR_AMX)
const Kernels kTable = BITMAR_TABLE("amx");
#else
const Kernels kTable = BITMAR_TABLE("avx512");
#endif

}  // namespace

#if defined(BITMAR_AMX)
const Kernels& amx_kernels() { return kTable; }
#else
const Kernels& avx512_kernels() { return kTable; }
#endif

}  // namespace bitmar
