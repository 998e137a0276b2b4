#include "server/admission.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "server/error.h"

namespace qianyi {
namespace {

using std::chrono::seconds;

class AdmissionTest : public ::testing::Test {
 protected:
  Admission Make(Admission::LineLimit limit, int64_t bytes = 0) {
    return Admission({limit}, bytes, [this] { return now_; });
  }
  // What a refusal says: its status over HTTP, its reason and its hint.
  static std::string Said(const absl::Status& status) {
    const ApiError error = ToApiError(status);
    return std::to_string(error.http_status) + " " + ReasonOf(status) + " " +
           std::to_string(error.retry_after_seconds);
  }

  AdmissionLine::Time now_ = AdmissionLine::Time() + seconds(1000);
};

TEST_F(AdmissionTest, ChoicesAreCountedAndGivenBack) {
  Admission admission = Make({.choices = 10, .waiting = 8});
  {
    auto six = admission.Admit({}, 0, {.choices = 6}, false);
    ASSERT_TRUE(six.ok());
    now_ += seconds(3);
    auto five = admission.Admit({}, 0, {.choices = 5}, false);
    EXPECT_EQ(Said(five.status()), "503 queue_full 3");
    EXPECT_TRUE(admission.Admit({}, 0, {.choices = 4}, false).ok());
    EXPECT_EQ(admission.held().choices, 6);
    Ticket moved = *std::move(six);
    EXPECT_EQ(admission.held().choices, 6);
  }
  EXPECT_EQ(admission.held().choices, 0);
  EXPECT_TRUE(admission.Admit({}, 0, {.choices = 10}, false).ok());
}

TEST_F(AdmissionTest, WhatCanNeverBeIsABadRequest) {
  Admission admission = Make({.choices = 10, .waiting = 8, .tokens = 100}, 1000);
  EXPECT_EQ(ToApiError(admission.Admit({}, 0, {.choices = 11}, false).status()).param, "n");
  auto ticket = admission.Admit({}, 0, {.choices = 1, .bytes = 10}, false);
  ASSERT_TRUE(ticket.ok());
  EXPECT_EQ(ToApiError(ticket->Grow({.tokens = 101})).http_status, 400);
  EXPECT_EQ(ToApiError(ticket->Grow({.bytes = 991})).http_status, 400);
  EXPECT_TRUE(ticket->Grow({.tokens = 100, .bytes = 990}).ok());
  const Caller alice{.name = "alice", .limits = {.concurrency = 2}};
  EXPECT_EQ(ToApiError(admission.Admit(alice, 0, {.choices = 3}, false).status()).param, "n");
}

TEST_F(AdmissionTest, TokensAndMemoryAreBounds) {
  Admission admission = Make({.tokens = 100}, 1000);
  auto first = admission.Admit({}, 0, {.choices = 1, .bytes = 600}, false);
  ASSERT_TRUE(first.ok() && first->Grow({.tokens = 60}).ok());
  EXPECT_EQ(ReasonOf(admission.Admit({}, 0, {.choices = 1, .bytes = 500}, false).status()),
            "queue_memory");
  auto second = admission.Admit({}, 0, {.choices = 1, .bytes = 100}, false);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(ReasonOf(second->Grow({.tokens = 50})), "queue_tokens");
  EXPECT_TRUE(second->Grow({.tokens = 40}).ok());
  EXPECT_EQ(admission.held().tokens, 100);
}

TEST_F(AdmissionTest, TheHintFollowsThePaceOfTheQueue) {
  Admission admission = Make({.choices = 4, .waiting = 2});
  std::vector<Ticket> held;
  for (int i = 0; i < 4; ++i) held.push_back(*admission.Admit({}, 0, {.choices = 1}, false));
  now_ += seconds(7);  // nothing has ended in 7 s: it may take as long again
  EXPECT_EQ(Said(admission.Admit({}, 0, {.choices = 1}, false).status()), "503 queue_full 7");
  for (int i = 0; i < 8; ++i) {  // one every 3 s
    now_ += seconds(3);
    held.erase(held.begin());
    held.push_back(*admission.Admit({}, 0, {.choices = 1}, false));
  }
  EXPECT_EQ(Said(admission.Admit({}, 0, {.choices = 1}, false).status()), "503 queue_full 4");
  EXPECT_EQ(Said(admission.Admit({}, 0, {.choices = 4}, false).status()), "503 queue_full 16");
  now_ += seconds(100000);
  EXPECT_EQ(Said(admission.Admit({}, 0, {.choices = 1}, false).status()), "503 queue_full 120");
}

TEST_F(AdmissionTest, ConcurrencyOfAKey) {
  Admission admission = Make({.choices = 100, .waiting = 90});
  const Caller alice{.name = "alice", .limits = {.concurrency = 3}};
  auto two = admission.Admit(alice, 0, {.choices = 2}, false);
  ASSERT_TRUE(two.ok());
  now_ += seconds(5);
  const absl::Status refused = admission.Admit(alice, 0, {.choices = 2}, false).status();
  EXPECT_EQ(Said(refused), "429 key_concurrency 5");
  EXPECT_EQ(ToApiError(refused).type, "rate_limit_error");
  EXPECT_EQ(ToApiError(refused).code, "rate_limit_exceeded");
  EXPECT_TRUE(admission.Admit(alice, 0, {.choices = 1}, false).ok());
  EXPECT_TRUE(admission.Admit({.name = "bob"}, 0, {.choices = 50}, false).ok());
}

TEST_F(AdmissionTest, TokensAMinuteOfAKey) {
  Admission admission = Make({});
  Caller alice{.name = "alice", .limits = {.tokens_per_minute = 60}};
  admission.Admit(alice, 0, {.choices = 1}, false)->Spend(50);
  admission.Admit(alice, 0, {.choices = 1}, false)->Spend(40);  // overdrawn by 30
  EXPECT_EQ(Said(admission.Admit(alice, 0, {.choices = 1}, false).status()), "429 key_tokens 31");
  now_ += seconds(29);
  EXPECT_EQ(Said(admission.Admit(alice, 0, {.choices = 1}, false).status()), "429 key_tokens 2");
  now_ += seconds(2);
  EXPECT_TRUE(admission.Admit(alice, 0, {.choices = 1}, false).ok());
  now_ += seconds(100000);  // no more than a minute's is saved
  admission.Admit(alice, 0, {.choices = 1}, false)->Spend(60);
  EXPECT_FALSE(admission.Admit(alice, 0, {.choices = 1}, false).ok());
  alice.limits.tokens_per_minute = 0;  // the file has changed
  EXPECT_TRUE(admission.Admit(alice, 0, {.choices = 1}, false).ok());
}

TEST_F(AdmissionTest, NoKeyFillsALineAlone) {
  Admission admission = Make({.choices = 80, .waiting = 64});
  const auto fill = [&](const Caller& caller, std::vector<Ticket>* held) {
    for (;;) {
      auto ticket = admission.Admit(caller, 0, {.choices = 1}, false);
      if (!ticket.ok()) return ReasonOf(ticket.status());
      held->push_back(*std::move(ticket));
    }
  };
  std::vector<Ticket> greedy, second, anonymous;
  EXPECT_EQ(fill({.name = "greedy"}, &greedy), "queue_share");
  EXPECT_EQ(greedy.size(), 64u);
  EXPECT_EQ(fill({.name = "second"}, &second), "queue_share");
  EXPECT_GT(second.size(), 8u);
  EXPECT_TRUE(admission.Admit({.name = "third"}, 0, {.choices = 1}, false).ok());
  EXPECT_EQ(fill({}, &anonymous), "queue_full");
}

TEST_F(AdmissionTest, BatchesLeaveRoom) {
  Admission admission = Make({.choices = 10, .waiting = 8});
  std::vector<Ticket> held;
  for (int i = 0; i < 6; ++i) held.push_back(*admission.Admit({}, 0, {.choices = 1}, true));
  EXPECT_EQ(ReasonOf(admission.Admit({}, 0, {.choices = 1}, true).status()), "queue_full");
  EXPECT_TRUE(held[0].turn().batch);
  EXPECT_TRUE(admission.Admit({}, 0, {.choices = 4}, false).ok());
}

TEST_F(AdmissionTest, KeysHaveTheirWeightAndFlow) {
  Admission admission = Make({});
  const auto alice =
      admission.Admit({.name = "alice", .limits = {.weight = 5}}, 0, {.choices = 1}, false);
  const auto bob = admission.Admit({.name = "bob"}, 0, {.choices = 1}, false);
  EXPECT_EQ(alice->turn().weight, 5);
  EXPECT_EQ(bob->turn().weight, 1);
  EXPECT_NE(alice->turn().flow, bob->turn().flow);
}

}  // namespace
}  // namespace qianyi
