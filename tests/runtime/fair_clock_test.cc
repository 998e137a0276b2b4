#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/fair_line.h"
#include "tests/runtime/engine_setup.h"

namespace qianyi {
namespace {

// Those who wait, and in which order they are served.
class Waiting {
 public:
  void Come(const std::string& name, const Turn& turn, double cost = 1) {
    line_.Enter(turn, cost, arrivals_++, name);
  }
  std::string Serve() { return line_.Serve(); }
  std::string ServeAll() {
    std::string names;
    while (!line_.empty()) names += Serve();
    return names;
  }

 private:
  FairLine<std::string> line_;
  uint64_t arrivals_ = 0;
};

TEST(FairClockTest, OneFlowIsServedInOrder) {
  Waiting waiting;
  for (const char* name : {"a", "b", "c"}) waiting.Come(name, {}, *name == 'a' ? 1000 : 1);
  EXPECT_EQ(waiting.ServeAll(), "abc");
}

TEST(FairClockTest, FlowsTakeTurnsHoweverManyOneHas) {
  Waiting waiting;
  for (int i = 0; i < 4; ++i) waiting.Come("a", {.flow = 1});
  for (int i = 0; i < 2; ++i) waiting.Come("b", {.flow = 2});
  EXPECT_EQ(waiting.ServeAll(), "ababaa");
}

TEST(FairClockTest, WeightsAreShares) {
  Waiting waiting;
  for (int i = 0; i < 300; ++i) waiting.Come("a", {.flow = 1, .weight = 1});
  for (int i = 0; i < 300; ++i) waiting.Come("b", {.flow = 2, .weight = 3});
  std::string served;
  for (int i = 0; i < 200; ++i) served += waiting.Serve();
  EXPECT_NEAR(std::count(served.begin(), served.end(), 'b'), 150, 1);
}

TEST(FairClockTest, LargeWorkCountsForMore) {
  Waiting waiting;
  for (int i = 0; i < 30; ++i) waiting.Come("a", {.flow = 1}, 10);
  for (int i = 0; i < 300; ++i) waiting.Come("b", {.flow = 2}, 1);
  std::string served;
  for (int i = 0; i < 110; ++i) served += waiting.Serve();
  EXPECT_NEAR(std::count(served.begin(), served.end(), 'a'), 10, 1);
}

TEST(FairClockTest, AbsenceGivesNoCredit) {
  Waiting waiting;
  for (int i = 0; i < 100; ++i) waiting.Come("a", {.flow = 1});
  for (int i = 0; i < 50; ++i) waiting.Serve();
  for (int i = 0; i < 50; ++i) waiting.Come("b", {.flow = 2});
  std::string served;
  for (int i = 0; i < 20; ++i) served += waiting.Serve();
  EXPECT_NEAR(std::count(served.begin(), served.end(), 'a'), 10, 1);
}

TEST(FairClockTest, BatchesComeLast) {
  Waiting waiting;
  waiting.Come("x", {.flow = 1, .weight = 100, .batch = true});
  waiting.Come("y", {.flow = 2, .batch = true});
  waiting.Come("a", {.flow = 3}, 1000);
  waiting.Come("b", {.flow = 3}, 1000);
  EXPECT_EQ(waiting.Serve(), "a");
  waiting.Come("c", {.flow = 2}, 1000);
  EXPECT_EQ(waiting.ServeAll(), "cbxy");
}

TEST(FairClockTest, BatchesHaveOnePlaceOfSixteen) {
  Waiting waiting;
  for (int i = 0; i < 3; ++i) waiting.Come("x", {.flow = 1, .batch = true});
  for (int i = 0; i < 40; ++i) waiting.Come("a", {.flow = 2});
  const std::string passed(15, 'a');
  EXPECT_EQ(waiting.ServeAll(), passed + "x" + passed + "x" + std::string(10, 'a') + "x");
}

// Says when it is first served, and waits until it may go on.
class Recorded : public Constraint {
 public:
  Recorded(std::string name, std::atomic<bool>& open, std::string* order)
      : name_(std::move(name)), open_(open), order_(order) {}
  void Mask(std::span<float>) override {
    open_.wait(false);
    order_->append(std::exchange(name_, ""));
  }
  void Accept(int32_t) override {}

 private:
  std::string name_;
  std::atomic<bool>& open_;
  std::string* const order_;
};

TEST(FairClockTest, TheEngineServesByIt) {
  std::atomic<bool> open = false;
  std::string order;  // of the engine's thread, until the last sink is closed
  auto engine = Open({.batch = 1});
  std::vector<std::shared_ptr<Sink>> sinks;
  const auto submit = [&](const char* name, const Turn& turn) {
    GenerateRequest request = Request(*engine, PromptIds(1, 9), 0, 2);
    request.turn = turn;
    sinks.push_back(std::make_shared<Sink>(Engine::MaxEvents(request), 0));
    ASSERT_TRUE(engine
                    ->Submit(std::move(request), sinks.back(),
                             std::make_unique<Recorded>(name, open, &order))
                    .ok());
  };
  submit("0", {.flow = 9});
  while (engine->stats().running == 0) std::this_thread::yield();  // and stays until `open`
  submit("x", {.flow = 1, .batch = true});
  for (const char* name : {"a", "b", "c"}) submit(name, {.flow = 1});
  submit("d", {.flow = 2});
  open = true;
  open.notify_all();
  for (auto& sink : sinks) EXPECT_TRUE(Collect(*sink).status.ok());
  EXPECT_EQ(order, "0adbcx");
}

TEST(FairClockTest, TheEngineDoesNotStarveBatches) {
  std::atomic<bool> open = false;
  std::string order;
  auto engine = Open({.batch = 1});
  std::vector<std::shared_ptr<Sink>> sinks;
  const auto submit = [&](const char* name, const Turn& turn) {
    GenerateRequest request = Request(*engine, PromptIds(1, 9), 0, 1);
    request.turn = turn;
    sinks.push_back(std::make_shared<Sink>(Engine::MaxEvents(request), 0));
    ASSERT_TRUE(engine
                    ->Submit(std::move(request), sinks.back(),
                             std::make_unique<Recorded>(name, open, &order))
                    .ok());
  };
  submit("0", {});
  while (engine->stats().running == 0) std::this_thread::yield();
  submit("x", {.batch = true});
  for (int i = 0; i < 20; ++i) submit("a", {});
  open = true;
  open.notify_all();
  for (auto& sink : sinks) EXPECT_TRUE(Collect(*sink).status.ok());
  EXPECT_EQ(order, "0" + std::string(15, 'a') + "x" + "aaaaa");
}

}  // namespace
}  // namespace qianyi
