#include "runtime/link_bytes.h"

#include <gtest/gtest.h>

namespace qianyi {
namespace {

// 100 bytes of weights, of which 30 stream; two steps, in which experts of 7 were used.
class LinkBytesTest : public ::testing::Test {
 protected:
  LinkBytesTest() {
    plan_.models.resize(1);
    ModelPlan& model = plan_.models[0];
    model.weight_bytes = 100;
    model.disk_bytes = 30;
    model.host_bytes = 70;
    engine_.steps = 2;
    weights_.read_bytes = 130;
    weights_.experts.used_bytes = 7;
  }

  Plan plan_;
  EngineStats engine_;
  WeightStoreStats weights_;
};

TEST_F(LinkBytesTest, TheProcessorReadsEachWeightOnceAStep) {
  const LinkBytes moved = MovedWeights(plan_, engine_, weights_);
  EXPECT_EQ(moved.host_memory, 2 * 100 + 7);
  EXPECT_EQ(moved.disk, 130);
  EXPECT_EQ(moved.host_to_device, 0);
  EXPECT_EQ(moved.device_memory, 0);
}

// Of 100 bytes 40 are on the device, 5 in RAM for the processor, and 55 cross the link.
TEST_F(LinkBytesTest, WhatADeviceDoesNotHoldCrossesTheLink) {
  plan_.budget.device_bytes = 1 << 20;
  ModelPlan& model = plan_.models[0];
  model.device_bytes = 40;
  model.host_bytes = 30;
  model.host_rows_bytes = 5;
  const LinkBytes moved = MovedWeights(plan_, engine_, weights_);
  EXPECT_EQ(moved.host_to_device, 2 * (25 + 30));
  EXPECT_EQ(moved.device_memory, 2 * (40 + 25 + 30));
  EXPECT_EQ(moved.host_memory, 2 * 5 + 7);
  EXPECT_EQ(moved.disk, 130);
}

}  // namespace
}  // namespace qianyi
