#include "server/http/rest_logprobs.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace qianyi {
namespace {

using nlohmann::json;

// JSON has no infinity; this is what clients of the API know in its place.
double Finite(float logprob) { return std::max(static_cast<double>(logprob), -9999.0); }

json ChatEntry(const TokenReport::Alternative& token) {
  json bytes = json::array();
  for (const char byte : token.bytes) bytes.push_back(static_cast<uint8_t>(byte));
  return {{"token", ShownToken(token)},
          {"logprob", Finite(token.logprob)},
          {"bytes", token.bytes.empty() ? json() : std::move(bytes)}};
}

}  // namespace

json CompletionLogprobs(std::span<const TokenReport> tokens) {
  json names = json::array(), logprobs = json::array(), offsets = json::array();
  json tops = json::array();
  bool alternatives = false;
  for (const TokenReport& token : tokens) {
    names.push_back(TokenKey(token.taken));
    logprobs.push_back(Finite(token.taken.logprob));
    offsets.push_back(token.offset);
    json top = json::object();
    for (const TokenReport::Alternative& other : token.top) {
      top.emplace(TokenKey(other), Finite(other.logprob));  // of equal names the likelier stays
    }
    alternatives = alternatives || !token.top.empty();
    top[TokenKey(token.taken)] = Finite(token.taken.logprob);
    tops.push_back(std::move(top));
  }
  return {{"tokens", std::move(names)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", alternatives ? std::move(tops) : json()},
          {"text_offset", std::move(offsets)}};
}

json ChatLogprobs(std::span<const TokenReport> tokens) {
  json content = json::array();
  for (const TokenReport& token : tokens) {
    json entry = ChatEntry(token.taken);
    entry["top_logprobs"] = json::array();
    for (const TokenReport::Alternative& other : token.top) {
      entry["top_logprobs"].push_back(ChatEntry(other));
    }
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

}  // namespace qianyi
