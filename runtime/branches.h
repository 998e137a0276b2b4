// A tree of guesses (Miao et al., SpecInfer, arXiv 2305.09781): where a guess may be wrong, other
// ways that its sequence may go ride in the same step. Each is a sequence of its own in that step.
// It holds the whole pages of what is known, and has copies of the last one that is filled in part;
// the last known token and the guesses that it shares are computed again. So no kernel hears of
// trees, and a token comes out as if it were alone. When the sampler takes a branch, its pages and
// those it stands for change places.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/generation.h"
#include "runtime/guesses.h"
#include "runtime/kv_cache.h"
#include "runtime/plan.h"
#include "runtime/prefix_cache.h"
#include "runtime/sequence.h"
#include "runtime/step.h"

namespace qianyi {

struct Branch {
  int place = 0;               // of the sequence that it belongs to
  int32_t from = 0;            // guesses of that sequence that come before it
  Sequence sequence;           // the last known token, those guesses, and then its own tokens
  int64_t begin = 0, end = 0;  // the rows of logits of its own tokens in the step

  int32_t first_token() const { return sequence.tokens[static_cast<size_t>(from) + 1]; }
};

// One thread. Allocates in its constructor only, but for the page tables of long prefixes.
class Branches {
 public:
  // Up to use.branches tokens in a step, in as many branches. `prefixes` gives way where pages are
  // wanted. `always`: also where branches are slower.
  Branches(KvCache& kv, PrefixCache& prefixes, const ModelUse& use, bool always);
  ~Branches() { Clear(); }
  Branches(const Branches&) = delete;
  Branches& operator=(const Branches&) = delete;

  // After `from` of its guesses, what runs at a place may go on with `tokens`. How many of them
  // ride: none where the same way is taken already, or there are no pages for another. `rows`: that
  // the step has left; what the branch takes is subtracted.
  int32_t Add(int place, const Generation& generation, int32_t from,
              std::span<const int32_t> tokens, int64_t* rows);
  // The same words may have been said before several times, and have gone on in other ways than
  // that which was guessed: up to `tokens` of those.
  void AddRepeated(int place, const Generation& generation, int32_t tokens, int64_t* rows);

  std::span<Branch> all() { return std::span(branches_).first(count_); }
  Sequence* sequence(int64_t i) { return &branches_[static_cast<size_t>(i)].sequence; }  // any
  int64_t room() const { return most_ - own_; }                                          // tokens
  int64_t own_tokens() const { return own_; }      // of all branches
  int64_t again_tokens() const { return again_; }  // that others compute as well
  // Finds the rows of a step in which branch i is sequence `first` + i.
  void Locate(const Step& step, int first);
  // The branch in which `token` follows `from` guesses that came, or null.
  const Branch* Find(int place, int32_t from, int32_t token) const;
  // The sequence that it belongs to has gone this way.
  void Take(const Branch& branch, Sequence* sequence);
  void Clear();
  BranchControl& control() { return control_; }

 private:
  KvCache& kv_;
  PrefixCache& prefixes_;
  const int64_t most_;
  BranchControl control_;
  std::vector<Branch> branches_;
  size_t count_ = 0;
  int64_t own_ = 0, again_ = 0;
};

}  // namespace qianyi
