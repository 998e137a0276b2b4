// Readers for tests: over bytes in memory, with faults on demand.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "runtime/storage/reader.h"

namespace qianyi {

// What a faulty disk does to one read: the bytes it returns, or an error.
struct Fault {
  uint64_t at_most = ~uint64_t{0};
  absl::Status status;
};
using FaultFn = std::function<Fault(uint64_t offset)>;

// Passes reads on to `inner` and spoils completions.
class FaultyReader : public Reader {
 public:
  FaultyReader(std::unique_ptr<Reader> inner, FaultFn fault)
      : inner_(std::move(inner)), fault_(std::move(fault)) {}
  uint64_t size() const override { return inner_->size(); }
  int depth() const override { return inner_->depth(); }
  absl::Status Submit(const ReadRequest& request) override {
    offsets_.emplace_back(request.cookie, request.offset);
    return inner_->Submit(request);
  }
  ReadCompletion Wait() override {
    ReadCompletion completion = inner_->Wait();
    auto it = std::find_if(offsets_.begin(), offsets_.end(),
                           [&](const auto& entry) { return entry.first == completion.cookie; });
    const Fault fault = fault_(it->second);
    offsets_.erase(it);
    if (!fault.status.ok()) completion.status = fault.status;
    completion.bytes = std::min(completion.bytes, fault.at_most);
    return completion;
  }

 private:
  const std::unique_ptr<Reader> inner_;
  const FaultFn fault_;
  std::vector<std::pair<uint64_t, uint64_t>> offsets_;  // cookie -> offset
};

// A file in memory, completing newest first: readers promise no order.
class MemoryReader : public Reader {
 public:
  explicit MemoryReader(const std::vector<std::byte>& bytes, int depth = 4)
      : bytes_(bytes), depth_(depth) {}
  uint64_t size() const override { return bytes_.size(); }
  int depth() const override { return depth_; }
  absl::Status Submit(const ReadRequest& request) override {
    pending_.push_back(request);
    return absl::OkStatus();
  }
  ReadCompletion Wait() override {
    const ReadRequest request = pending_.back();
    pending_.pop_back();
    const uint64_t end = std::min<uint64_t>(bytes_.size(), request.offset + request.bytes);
    const uint64_t got = end > request.offset ? end - request.offset : 0;
    std::memcpy(request.to, bytes_.data() + request.offset, got);
    return {request.cookie, got, absl::OkStatus()};
  }

 private:
  const std::vector<std::byte>& bytes_;
  const int depth_;
  std::deque<ReadRequest> pending_;
};

}  // namespace qianyi
