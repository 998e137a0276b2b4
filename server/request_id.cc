#include "server/request_id.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <random>

namespace qianyi {
namespace {

constexpr size_t kMaxBytes = 128;

bool IsFit(std::string_view id) {
  return !id.empty() && id.size() <= kMaxBytes && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' ||
           c == '_' || c == '.' || c == ':';
  });
}

}  // namespace

std::string RequestIdFrom(std::string_view given) {
  return IsFit(given) ? std::string(given) : NewId("req-");
}

std::string NewId(std::string_view prefix) {
  thread_local std::mt19937_64 random{std::random_device{}()};
  char digits[20];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(random()));
  return std::string(prefix) + digits;
}

}  // namespace qianyi
