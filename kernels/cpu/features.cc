#include <initializer_list>

#include "kernels/cpu/dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace qianyi::cpu {
namespace {

#if defined(__x86_64__)

bool Has(uint32_t word, std::initializer_list<int> bits) {
  for (int bit : bits) {
    if ((word >> bit & 1u) == 0) return false;
  }
  return true;
}

// The register sets that the operating system saves.
uint64_t SavedState() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

// Linux grants the 8 KiB of tile registers only to processes that ask.
bool RequestTiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

Features Detect() {
  Features features;
  uint32_t a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return features;
  if (!Has(c, {12, 27, 28, 29})) return features;  // FMA, OSXSAVE, AVX, F16C
  const uint64_t saved = SavedState();
  __get_cpuid(0, &a, &b, &c, &d);
  features.prefetch = b == 0x756e6547;  // "Genu", as in GenuineIntel
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return features;
  features.avx2 = Has(b, {5}) && (saved & 0x6) == 0x6;
  features.avx512 = features.avx2 && (saved & 0xe6) == 0xe6 &&
                    Has(b, {16, 17, 30, 31}) &&  // F, DQ, BW, VL
                    Has(c, {11});                // VNNI
  features.amx = features.avx512 && (saved & 0x60000) == 0x60000 && Has(d, {24, 25}) &&
                 RequestTiles();  // tiles, int8
  return features;
}

#else

Features Detect() { return {}; }

#endif

}  // namespace

const Features& DetectFeatures() {
  static const Features features = Detect();
  return features;
}

}  // namespace qianyi::cpu
