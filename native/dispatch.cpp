#include "dispatch.h"

#include <stdexcept>

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace bitmar {
namespace {

#if defined(__x86_64__) || defined(_M_X64)

struct Cpu {
  bool avx2 = false, avxvnni = false, avx512 = false, amx = false;
};

// Linux saves the matrix registers only for processes that have asked for it.
bool allowed_amx() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Cpu detect() {
  Cpu cpu;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return cpu;
  unsigned low, high;  // the registers that the operating system saves
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  const bool tiles = (low & 0x60000) == 0x60000;
  const bool ymm = (low & 0x06) == 0x06, zmm = (low & 0xe6) == 0xe6;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return cpu;
  const unsigned most = a;
  cpu.avx2 = ymm && (b >> 5 & 1);
  const bool f = b >> 16 & 1, dq = b >> 17 & 1, bw = b >> 30 & 1, vl = b >> 31 & 1, vnni = c >> 11 & 1;
  cpu.avx512 = zmm && f && dq && bw && vl && vnni;
  cpu.amx = cpu.avx512 && tiles && (d >> 24 & 1) && (d >> 25 & 1) && allowed_amx();
  if (most >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) cpu.avxvnni = cpu.avx2 && (a >> 4 & 1);
  return cpu;
}

#endif

[[maybe_unused]] Path missing(const char* name, const char* reason) { return {name, nullptr, reason}; }

[[maybe_unused]] constexpr const char* kNotBuilt = "the compiler of this build did not know it";
[[maybe_unused]] constexpr const char* kNoProcessor = "this processor does not have it";

}  // namespace

std::vector<Path> paths() {
  std::vector<Path> all;
#if defined(__x86_64__) || defined(_M_X64)
  const Cpu cpu = detect();
#if defined(BITMAR_HAS_AMX)
  all.push_back(cpu.amx ? Path{"amx", &amx_kernels(), ""} : missing("amx", kNoProcessor));
#else
  all.push_back(missing("amx", kNotBuilt));
#endif
#if defined(BITMAR_HAS_AVX512)
  all.push_back(cpu.avx512 ? Path{"avx512", &avx512_kernels(), ""} : missing("avx512", kNoProcessor));
#else
  all.push_back(missing("avx512", kNotBuilt));
#endif
#if defined(BITMAR_HAS_AVXVNNI)
  all.push_back(cpu.avxvnni ? Path{"avxvnni", &avxvnni_kernels(), ""} : missing("avxvnni", kNoProcessor));
#else
  all.push_back(missing("avxvnni", kNotBuilt));
#endif
#if defined(BITMAR_HAS_AVX2)
  all.push_back(cpu.avx2 ? Path{"avx2", &avx2_kernels(), ""} : missing("avx2", kNoProcessor));
#else
  all.push_back(missing("avx2", kNotBuilt));
#endif
#elif defined(__aarch64__)
#if defined(__linux__)
  const bool dotprod = getauxval(AT_HWCAP) >> 20 & 1;  // HWCAP_ASIMDDP
#else
  const bool dotprod = true;  // every Apple processor that runs arm64 has it
#endif
#if defined(BITMAR_HAS_NEON_DOTPROD)
  all.push_back(dotprod ? Path{"neon_dotprod", &neon_dotprod_kernels(), ""} : missing("neon_dotprod", kNoProcessor));
#else
  static_cast<void>(dotprod);
  all.push_back(missing("neon_dotprod", kNotBuilt));
#endif
#if defined(BITMAR_HAS_NEON)
  all.push_back({"neon", &neon_kernels(), ""});
#endif
#elif defined(BITMAR_HAS_SIMD128)
  all.push_back({"simd128", &simd128_kernels(), ""});
#endif
  all.push_back({"portable", &portable_kernels(), ""});
  return all;
}

const Kernels& select_kernels(const std::string& name) {
  std::string runnable;
  for (const Path& path : paths()) {
    if (path.kernels == nullptr) {
      if (path.name == name) throw std::invalid_argument("the kernels " + name + " cannot run: " + path.reason);
      continue;
    }
    if (name.empty() || path.name == name) return *path.kernels;
    runnable += (runnable.empty() ? "" : ", ") + path.name;
  }
  throw std::invalid_argument("there are no kernels called '" + name + "'; here run: " + runnable);
}

}  // namespace bitmar
