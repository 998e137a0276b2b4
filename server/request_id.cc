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
  if (IsFit(given)) return std::string(given);
  thread_local std::mt19937_64 random{std::random_device{}()};
  char id[40];
  std::snprintf(id, sizeof id, "req-%016llx", static_cast<unsigned long long>(random()));
  return id;
}

}  // namespace qianyi
