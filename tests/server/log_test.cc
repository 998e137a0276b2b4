#include "server/log.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <string>

namespace qianyi {
namespace {

// All that a log wrote.
std::string Written(const LogOptions& options, const std::function<void(Log&)>& write) {
  std::FILE* file = std::tmpfile();
  {
    Log log(options, file);
    write(log);
  }
  std::string text(static_cast<size_t>(std::ftell(file)), '\0');
  std::rewind(file);
  EXPECT_EQ(std::fread(text.data(), 1, text.size(), file), text.size());
  std::fclose(file);
  return text;
}

TEST(LogTest, LinesOfJson) {
  const std::string text = Written({.format = LogFormat::kJson}, [](Log& log) {
    log.Request("request", {{"route", "/a\n\"b\""}, {"status", 200}, {"key", nullptr}});
    log.Warning("look out");
  });
  const size_t end = text.find('\n');
  const auto first = nlohmann::json::parse(text.substr(0, end));
  EXPECT_EQ(first["event"], "request");
  EXPECT_EQ(first["route"], "/a\n\"b\"");
  EXPECT_EQ(first["status"], 200);
  EXPECT_FALSE(first.contains("key"));
  const auto second = nlohmann::json::parse(text.substr(end + 1));
  EXPECT_EQ(second["level"], "warning");
  EXPECT_EQ(second["message"], "look out");
}

TEST(LogTest, LinesOfText) {
  const std::string text = Written({.format = LogFormat::kText}, [](Log& log) {
    log.Request("request", {{"a", "plain"}, {"b", "two words\n"}, {"c", 1.5}, {"d", ""}});
    log.Notice("hello");
    log.Flush();
  });
  EXPECT_NE(text.find("Z request a=plain b=\"two words\\n\" c=1.5 d=\"\"\nqianyi: hello\n"),
            std::string::npos)
      << text;
}

TEST(LogTest, OffSaysOnlyNotices) {
  EXPECT_EQ(Written({.prompts = true},
                    [](Log& log) {
                      EXPECT_FALSE(log.requests() || log.prompts());
                      log.Request("request", {{"a", 1}});
                      log.Warning("look out");
                    }),
            "qianyi: warning: look out\n");
}

TEST(LogTest, TraceParents) {
  const std::string trace(32, 'a'), parent(16, 'b');
  const auto header = [&](const std::string& version, const std::string& more) {
    return version + "-" + trace + "-" + parent + "-01" + more;
  };
  EXPECT_EQ(ParseTraceParent(header("00", "")).trace_id, trace);
  EXPECT_EQ(ParseTraceParent(header("00", "")).parent_id, parent);
  EXPECT_EQ(ParseTraceParent(header("cc", "-what-comes-later")).trace_id, trace);
  for (const std::string& bad :
       {header("ff", ""), header("00", "-more"), header("cc", "more"), header("0", ""),
        std::string(), std::string(55, '-'), std::string(55, '0')}) {
    EXPECT_EQ(ParseTraceParent(bad).trace_id, "") << bad;
  }
}

TEST(LogTest, FormatsByName) {
  EXPECT_EQ(*ParseLogFormat("json"), LogFormat::kJson);
  EXPECT_FALSE(ParseLogFormat("xml").ok());
}

}  // namespace
}  // namespace qianyi
