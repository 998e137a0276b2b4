// What `qianyi verify` found: one line for each expected value.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/backend.h"

namespace qianyi {

struct VerifyLine {
  enum class Result : uint8_t { kOk, kFail, kUnknown };

  std::string name;
  double difference = 0;  // the largest; of ids: how many differ
  double tolerance = 0;
  Result result = Result::kOk;
  std::string note;  // why, where the numbers do not say it
};

// One thread.
class VerifyReport {
 public:
  // `only`: a glob (* and ?) that a name must match whole, or a plain piece of it; empty takes
  // all. `show`, if set, is called with each line as it comes.
  explicit VerifyReport(std::string only, std::function<void(const VerifyLine&)> show = {})
      : only_(std::move(only)), show_(std::move(show)) {}

  // What models are run on: null is the CPU. `bytes` as of LoadOptions::device_bytes.
  struct Device {
    const Backend* backend = nullptr;
    uint64_t bytes = 0;
  };
  void RunOn(Device device) { device_ = device; }
  const Device& device() const { return device_; }

  // Stands before every name from here on.
  void set_prefix(std::string prefix) { prefix_ = std::move(prefix); }
  bool Wants(std::string_view name) const;
  // Names that are not wanted are dropped.
  void Add(VerifyLine line);

  const std::vector<VerifyLine>& lines() const { return lines_; }
  // Lines that are not ok: any of them fails the whole.
  int64_t failed() const { return failed_; }

 private:
  std::string only_;
  std::string prefix_;
  Device device_;
  std::function<void(const VerifyLine&)> show_;
  std::vector<VerifyLine> lines_;
  int64_t failed_ = 0;
};

}  // namespace qianyi
