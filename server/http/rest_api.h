// The routes of the HTTP port.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/access/key_ring.h"
#include "server/access/origin.h"
#include "server/adapter_admin.h"
#include "server/http/chat_shapes.h"
#include "server/http/http_server.h"
#include "server/http/rest_answer.h"
#include "server/http/rest_batch.h"
#include "server/image_service.h"
#include "server/kserve.h"
#include "server/text_service.h"

namespace qianyi {

// Thread-safe.
class RestApi {
 public:
  // All but `origins` outlive this.
  RestApi(TextService& service, ImageService& images, AdapterAdmin& adapters, const KeyRing& keys,
          OriginRules origins);

  // Before the body is read: the answer to whoever may not ask this, and to a page's question
  // whether it may. Otherwise says in the request whose key it has.
  std::optional<HttpResponse> Screen(HttpRequest* request);
  void Handle(HttpRequest request, std::shared_ptr<HttpReply> reply);

 private:
  using Act = std::function<void(const HttpRequest&, const std::shared_ptr<HttpReply>&)>;
  struct Route {
    Scope scope;  // what a key must have
    std::string method;
    // Ends in '/': a prefix, with more behind it. "{name}" stands for anything without a '/'.
    std::string path;
    Act act;
  };

  struct Found {
    const Route* route = nullptr;  // null: none
    std::string allowed;           // methods that the path has
  };

  Found Find(const HttpRequest& request) const;
  absl::Status Check(HttpRequest* request, const Route* route) const;
  void AddTextRoutes();
  void AddShapeRoutes();
  void AddKserveRoutes();
  void AddPageRoutes();
  void AddOperatorRoutes();
  void AddAdapterRoutes();
  void StartText(const HttpRequest& http, absl::StatusOr<RestRequest> request,
                 std::unique_ptr<RestAnswer> (*make)(const RestRequest&, const Accepted&,
                                                     std::shared_ptr<HttpReply>),
                 const std::shared_ptr<HttpReply>& reply);
  using MakeShaped = std::unique_ptr<CallListener> (*)(const ShapedRequest&, const Accepted&,
                                                       std::shared_ptr<HttpReply>);
  void StartShaped(const HttpRequest& http, absl::StatusOr<ShapedRequest> request, MakeShaped make,
                   HttpResponse (*refuse)(const absl::Status&),
                   const std::shared_ptr<HttpReply>& reply);
  void CountTokens(const HttpRequest& http, const std::shared_ptr<HttpReply>& reply);
  void Infer(const HttpRequest& http, const std::shared_ptr<HttpReply>& reply);
  // On whose account it runs.
  static void Charge(const HttpRequest& http, TextRequest* text);
  // `refuse` says in which shape errors are.
  void Start(const HttpRequest& http, TextRequest* text, const TextService::MakeListener& make,
             HttpResponse (*refuse)(const absl::Status&), const std::shared_ptr<HttpReply>& reply);
  void AddBatchRoutes();
  void AddTokenRoutes();
  void AddImageRoutes();
  void StartBatch(const HttpRequest& http, absl::StatusOr<RestBatch> request,
                  const std::shared_ptr<HttpReply>& reply);
  void StartImage(ImageWork work, const HttpRequest& request,
                  const std::shared_ptr<HttpReply>& reply);
  nlohmann::json ModelJson(const FoundModel& found) const;
  void ListModels(const std::shared_ptr<HttpReply>& reply);
  void ShowModel(const std::string& name, const std::shared_ptr<HttpReply>& reply);

  TextService& service_;
  ImageService& images_;
  InferService infer_;
  AdapterAdmin& adapters_;
  const KeyRing& keys_;
  const OriginRules origins_;
  std::vector<Route> routes_;
  nlohmann::json openapi_;
};

}  // namespace qianyi
