#include "server/best_of.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace qianyi {
namespace {

class BestOf final : public CallListener {
 public:
  BestOf(int best, int candidates, std::unique_ptr<CallListener> to)
      : best_(best), candidates_(static_cast<size_t>(candidates)), to_(std::move(to)) {}

  void OnText(int choice, int blank, std::string_view text) override {
    Keep(choice, [blank, text = std::string(text)](CallListener& to, int place) {
      to.OnText(place, blank, text);
    });
  }
  void OnStart(const Usage& usage) override { to_->OnStart(usage); }
  void OnReasoning(int choice, std::string_view text) override {
    Keep(choice,
         [text = std::string(text)](CallListener& to, int place) { to.OnReasoning(place, text); });
  }
  void OnToolCall(int choice, int index, const ToolCall& call) override {
    Keep(choice, [index, call](CallListener& to, int place) { to.OnToolCall(place, index, call); });
  }
  void OnTokens(int choice, std::vector<TokenReport> tokens) override {
    Candidate& candidate = candidates_[static_cast<size_t>(choice)];
    for (const TokenReport& token : tokens) candidate.logprob += token.taken.logprob;
    candidate.tokens += static_cast<int64_t>(tokens.size());
    Keep(choice,
         [tokens = std::move(tokens)](CallListener& to, int place) { to.OnTokens(place, tokens); });
  }
  void OnStop(int choice, std::string_view stop) override {
    Keep(choice,
         [stop = std::string(stop)](CallListener& to, int place) { to.OnStop(place, stop); });
  }
  void OnBlankEnd(int choice, int blank, FinishReason why) override {
    Keep(choice, [blank, why](CallListener& to, int place) { to.OnBlankEnd(place, blank, why); });
  }
  void OnEnd(const absl::Status& status, const Usage& usage) override {
    if (status.ok()) ShowBest();
    to_->OnEnd(status, usage);
  }

 private:
  using Event = std::function<void(CallListener& to, int place)>;
  struct Candidate {
    std::vector<Event> events;
    double logprob = 0;  // of all its tokens
    int64_t tokens = 0;

    double mean() const {
      return tokens > 0 ? logprob / static_cast<double>(tokens)
                        : -std::numeric_limits<double>::infinity();
    }
  };

  void Keep(int choice, Event event) {
    candidates_[static_cast<size_t>(choice)].events.push_back(std::move(event));
  }
  void ShowBest() {
    std::vector<size_t> order(candidates_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [this](size_t a, size_t b) {
      return candidates_[a].mean() > candidates_[b].mean();
    });
    for (int place = 0; place < best_; ++place) {
      const Candidate& candidate = candidates_[order[static_cast<size_t>(place)]];
      for (const Event& event : candidate.events) event(*to_, place);
    }
  }

  const int best_;
  std::vector<Candidate> candidates_;
  const std::unique_ptr<CallListener> to_;
};

}  // namespace

std::unique_ptr<CallListener> MakeBestOf(int best, int candidates,
                                         std::unique_ptr<CallListener> to) {
  return std::make_unique<BestOf>(best, candidates, std::move(to));
}

}  // namespace qianyi
