// The pages for people: files that are part of the program.
#include <array>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/error.h"
#include "server/http/rest_api.h"

namespace qianyi {

extern const std::string_view web_playground_html;
extern const std::string_view web_dashboard_html;
extern const std::string_view web_common_css;
extern const std::string_view web_playground_css;
extern const std::string_view web_dashboard_css;
extern const std::string_view web_theme_js;
extern const std::string_view web_common_js;
extern const std::string_view web_events_js;
extern const std::string_view web_metrics_js;
extern const std::string_view web_recipes_js;
extern const std::string_view web_playground_js;
extern const std::string_view web_playground_words_js;
extern const std::string_view web_dashboard_js;
extern const std::string_view web_dashboard_words_js;
extern const std::string_view web_chart_js;
extern const std::string_view web_icon_svg;
extern const std::string_view web_dygraph_js;
extern const std::string_view web_dygraph_css;

namespace {

using Reply = std::shared_ptr<HttpReply>;

constexpr char kHtml[] = "text/html; charset=utf-8";
constexpr char kCss[] = "text/css; charset=utf-8";
constexpr char kScript[] = "text/javascript; charset=utf-8";
constexpr char kSvg[] = "image/svg+xml";

struct File {
  std::string_view name;
  const char* content_type;
  std::string_view bytes;
};

const auto& Files() {
  static const std::array files = {File{"common.css", kCss, web_common_css},
                                   File{"playground.css", kCss, web_playground_css},
                                   File{"dashboard.css", kCss, web_dashboard_css},
                                   File{"theme.js", kScript, web_theme_js},
                                   File{"common.js", kScript, web_common_js},
                                   File{"events.js", kScript, web_events_js},
                                   File{"metrics.js", kScript, web_metrics_js},
                                   File{"recipes.js", kScript, web_recipes_js},
                                   File{"playground.js", kScript, web_playground_js},
                                   File{"playground-words.js", kScript, web_playground_words_js},
                                   File{"dashboard.js", kScript, web_dashboard_js},
                                   File{"dashboard-words.js", kScript, web_dashboard_words_js},
                                   File{"chart.js", kScript, web_chart_js},
                                   File{"icon.svg", kSvg, web_icon_svg},
                                   File{"dygraph.js", kScript, web_dygraph_js},
                                   File{"dygraph.css", kCss, web_dygraph_css}};
  return files;
}

// Nothing comes from elsewhere, nothing goes elsewhere, and no other page frames it.
HttpResponse Page(const char* content_type, std::string_view bytes) {
  HttpResponse response;
  response.content_type = content_type;
  response.body = std::string(bytes);
  response.headers = {{"Cache-Control", "no-cache"},
                      {"Content-Security-Policy",
                       "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action "
                       "'self'; object-src 'none'"},
                      {"Referrer-Policy", "no-referrer"}};
  return response;
}

void SendFile(const HttpRequest& request, const Reply& reply) {
  const std::string_view name = std::string_view(request.path).substr(sizeof("/web/") - 1);
  for (const File& file : Files()) {
    if (file.name == name) return reply->Send(Page(file.content_type, file.bytes));
  }
  reply->Send(ErrorResponse(absl::NotFoundError(
      absl::StrFormat("there is no file %s of the pages", std::string(name.substr(0, 100))))));
}

}  // namespace

void RestApi::AddPageRoutes() {
  routes_.push_back({Scope::kPublic, "GET", "/", [](const HttpRequest&, const Reply& reply) {
                       reply->Send(Page(kHtml, web_playground_html));
                     }});
  routes_.push_back(
      {Scope::kPublic, "GET", "/dashboard", [](const HttpRequest&, const Reply& reply) {
         reply->Send(Page(kHtml, web_dashboard_html));
       }});
  routes_.push_back({Scope::kPublic, "GET", "/web/{name}", SendFile});
}

}  // namespace qianyi
