#include "runtime/prompt_room.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace qianyi {
namespace {

// A step takes the longer of reading the weights and computing its tokens.
struct Machine {
  double reading = 0.5, token = 0.01;
  double Step(int64_t tokens) const {
    return std::max(reading, token * static_cast<double>(tokens));
  }
};

// A prompt of `tokens` while one generates: the longest step, and how many there were.
struct Asking {
  double longest = 0;
  int steps = 0;
};
Asking Ride(PromptRoom& room, const Machine& machine, int64_t tokens) {
  Asking prompt;
  for (; tokens > 0; ++prompt.steps) {
    const int64_t riding = std::min(tokens, room.Of(1));
    const double seconds = machine.Step(1 + riding);
    room.Took(riding, seconds);
    tokens -= riding;
    prompt.longest = std::max(prompt.longest, seconds);
  }
  return prompt;
}

void Generate(PromptRoom& room, const Machine& machine, int steps) {
  for (int i = 0; i < steps; ++i) {
    room.Of(1);
    room.Took(0, machine.Step(1));
  }
}

TEST(PromptRoomTest, PromptsAloneHaveAllThereIs) {
  PromptRoom room(512, 4, false);
  EXPECT_EQ(room.Of(0), 512);
  room.Took(512, 5);
  Generate(room, {}, 10);
  EXPECT_EQ(room.Of(0), 512);
}

TEST(PromptRoomTest, AStepInWhichOthersGenerateStretchesSoFarAndNoFurther) {
  const Machine machine;
  for (const double stretch : {1.5, 4.0, 8.0}) {
    PromptRoom room(512, stretch, false);
    room.Of(0);
    room.Took(100, machine.Step(100));
    Generate(room, machine, 10);
    Ride(room, machine, 2000);
    const Asking prompt = Ride(room, machine, 4000);
    EXPECT_LE(prompt.longest, stretch * machine.reading * 1.1) << stretch;
    // And it uses what it may.
    EXPECT_LE(prompt.steps, 4000 * machine.token / (stretch * machine.reading * 0.8)) << stretch;
  }
}

TEST(PromptRoomTest, WhatReadingTakesLongerForRidesForNothing) {
  const Machine machine{.reading = 6, .token = 0.01};
  PromptRoom room(512, 1.5, false);
  room.Of(0);
  room.Took(512, machine.Step(512));
  Generate(room, machine, 3);
  const Asking prompt = Ride(room, machine, 5120);
  EXPECT_EQ(prompt.longest, machine.reading);
  EXPECT_LE(prompt.steps, 12);
}

TEST(PromptRoomTest, ItIsNeverLessThanAProductIsWorth) {
  const Machine machine{.reading = 0.001, .token = 0.01};
  PromptRoom room(512, 2, false);
  Generate(room, machine, 3);
  Ride(room, machine, 1024);
  EXPECT_EQ(room.Of(1), PromptRoom::kLeast);
  PromptRoom small(7, 2, false);
  Generate(small, machine, 3);
  Ride(small, machine, 70);
  EXPECT_EQ(small.Of(1), 7);
}

TEST(PromptRoomTest, AContextThatEveryTokenSeesRidesWhole) {
  const Machine machine{.reading = 0.001, .token = 0.01};
  for (const bool atomic : {true, false}) {
    PromptRoom room(512, atomic ? 2 : 0, atomic);
    Generate(room, machine, 3);
    Ride(room, machine, 1024);
    EXPECT_EQ(room.Of(1), 512);
  }
}

}  // namespace
}  // namespace qianyi
