// Loops over registers, unrolled before anything else sees them: an array of vectors
// stays in registers only where every index is a constant.
#pragma once

namespace qianyi::cpu {
namespace {

template <int... kIndices>
struct Indices {};

template <int kCount, int... kIndices>
struct MakeIndices : MakeIndices<kCount - 1, kCount - 1, kIndices...> {};
template <int... kIndices>
struct MakeIndices<0, kIndices...> {
  using type = Indices<kIndices...>;
};

template <typename Body, int... kIndices>
[[gnu::always_inline]] inline void UnrollOver(const Body& body, Indices<kIndices...>) {
  (body.template operator()<kIndices>(), ...);
}

// body.operator()<0>(), <1>, … <kCount - 1>.
template <int kCount, typename Body>
[[gnu::always_inline]] inline void Unroll(const Body& body) {
  UnrollOver(body, typename MakeIndices<kCount>::type{});
}

}  // namespace
}  // namespace qianyi::cpu

// A lambda over a constant index, for Unroll.
#define QIANYI_EACH(index) [&]<int index>() __attribute__((always_inline))
