#include "runtime/known_rates.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "kernels/cuda/emulated.h"
#include "nlohmann/json.hpp"
#include "tests/support/temp_folder.h"

namespace qianyi {
namespace {

using Measures = KnownRates::Measures;

class KnownRatesTest : public ::testing::Test {
 protected:
  double Ask(const std::string& name, double value, const std::string& machine = "here",
             Measures measures = Measures::kUnknown) {
    KnownRates known(file_, machine, measures);
    return known.Get(name, [&] {
      ++measured_;
      return value;
    });
  }

  testing::TempFolder temp_;
  const std::string file_ = temp_ / "cache/rates.json";  // whose folder is not there yet
  int measured_ = 0;
};

TEST_F(KnownRatesTest, MeasuresOnceForAMachineAndAName) {
  EXPECT_EQ(Ask("RAM", 3e10), 3e10);
  EXPECT_EQ(Ask("RAM", 4e10), 3e10);
  EXPECT_EQ(measured_, 1);
  EXPECT_EQ(Ask("disk", 2e9), 2e9);
  EXPECT_EQ(Ask("RAM", 5e10, "elsewhere"), 5e10);
  EXPECT_EQ(measured_, 3);
  EXPECT_EQ(Ask("RAM", 6e10), 3e10);  // what others wrote left it alone
  EXPECT_EQ(Ask("RAM", 7e10, "here", Measures::kAll), 7e10);
  EXPECT_EQ(Ask("RAM", 8e10), 7e10);
  EXPECT_EQ(Ask("disk", 9e9), 2e9);
  EXPECT_EQ(Ask("disk", 9e9, "here", Measures::kNothing), 2e9);
  EXPECT_EQ(Ask("link", 9e9, "here", Measures::kNothing), 0);
  EXPECT_EQ(measured_, 4);
}

TEST_F(KnownRatesTest, SaysHowOldTheyAre) {
  {
    KnownRates known(file_, "here", Measures::kUnknown);
    known.Get("RAM", [] { return 1.0; });
    known.Get("RAM", [] { return 2.0; });
    EXPECT_EQ(known.oldest_day(), "");
  }
  {
    nlohmann::json json = nlohmann::json::parse(std::ifstream(file_));
    json["here"]["disk"] = {{"per_second", 5.0}, {"measured", "2021-06-01"}};
    std::ofstream(file_) << json;
  }
  KnownRates known(file_, "here", Measures::kUnknown);
  known.Get("RAM", [] { return 3.0; });
  EXPECT_EQ(known.oldest_day().size(), 10u);
  known.Get("disk", [] { return 3.0; });
  EXPECT_EQ(known.oldest_day(), "2021-06-01");
}

TEST_F(KnownRatesTest, WhatCouldNotBeMeasuredIsNotKept) {
  EXPECT_EQ(Ask("disk", 0), 0);
  EXPECT_FALSE(std::filesystem::exists(file_));
  EXPECT_EQ(Ask("disk", 1e9), 1e9);
}

TEST_F(KnownRatesTest, AFileOfRubbishIsAnEmptyOne) {
  std::filesystem::create_directories(temp_ / "cache");
  for (const char* text :
       {"", "[1]", "{\"here\": 3}", "{\"here\": {\"RAM\": {\"per_second\": -1}}}",
        "{\"here\": {\"RAM\": {\"per_second\": \"1\", \"measured\": 5}}}",
        "{\"here\": {\"RAM\": 7}}", "\xff\xfe{"}) {
    std::ofstream(file_) << text;
    EXPECT_EQ(Ask("RAM", 3e10), 3e10) << text;
    EXPECT_EQ(Ask("RAM", 4e10), 3e10) << text;
  }
}

TEST_F(KnownRatesTest, AFolderThatCannotBeWrittenCostsNothingButTime) {
  std::ofstream(temp_ / "file") << "no folder";
  KnownRates known(temp_ / "file/rates.json", "here", Measures::kUnknown);
  EXPECT_EQ(known.Get("RAM", [] { return 1.0; }), 1.0);
}

TEST_F(KnownRatesTest, OfADeviceToo) {
  KnownRates known(file_, "here", Measures::kUnknown);
  const RatesWanted wanted{.host_bandwidth = false, .device = true, .compute = false};
  known.Get("memory of emulated", [] { return 4e12; });
  const auto rates = RatesOf(known, wanted, {DType::kI8}, 1, &cuda::EmulatedCuda(), "");
  ASSERT_TRUE(rates.ok()) << rates.status();
  EXPECT_EQ(rates->device_bandwidth, 4e12);
  EXPECT_GT(rates->link, 0);
  EXPECT_GT(rates->link_back, 0);
  EXPECT_EQ(rates->host_bandwidth, 0);
  EXPECT_EQ(rates->disk, 0);
}

TEST_F(KnownRatesTest, ADiskThatCannotBeReadIsAnError) {
  KnownRates known(file_, "here", Measures::kUnknown);
  const RatesWanted wanted{.host_bandwidth = false, .device = false, .compute = false};
  EXPECT_FALSE(RatesOf(known, wanted, {DType::kI8}, 1, nullptr, temp_ / "nothing").ok());
}

TEST(MachineNameTest, NamesWhatRatesDependOn) {
  const std::string name = MachineName();
  EXPECT_NE(name.find("processors"), std::string::npos) << name;
  EXPECT_NE(name.find(Cpu().variant), std::string::npos) << name;
  EXPECT_NE(name.find("GiB"), std::string::npos) << name;
}

}  // namespace
}  // namespace qianyi
