// The routes of the HTTP port.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/adapter_admin.h"
#include "server/http/http_server.h"
#include "server/http/rest_answer.h"
#include "server/text_service.h"

namespace qianyi {

// Thread-safe.
class RestApi {
 public:
  RestApi(TextService& service, AdapterAdmin& adapters);  // both outlive this

  void Handle(HttpRequest request, std::shared_ptr<HttpReply> reply);

 private:
  using Act = std::function<void(const HttpRequest&, const std::shared_ptr<HttpReply>&)>;
  struct Route {
    std::string method;
    std::string path;  // ends in '/': a prefix, with more behind it
    Act act;
  };

  void AddTextRoutes();
  void AddPageRoutes();
  void AddOperatorRoutes();
  void AddAdapterRoutes();
  void StartText(absl::StatusOr<RestRequest> request,
                 std::unique_ptr<RestAnswer> (*make)(const RestRequest&, const Accepted&,
                                                     std::shared_ptr<HttpReply>),
                 const std::shared_ptr<HttpReply>& reply);
  void ListModels(const std::shared_ptr<HttpReply>& reply);
  void ShowModel(const std::string& name, const std::shared_ptr<HttpReply>& reply);

  TextService& service_;
  AdapterAdmin& adapters_;
  std::vector<Route> routes_;
};

}  // namespace qianyi
