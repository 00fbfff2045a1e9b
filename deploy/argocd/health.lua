-- Health of an OfficeKmsHost for Argo CD (resource.customizations.health.officekms.io_OfficeKmsHost in argocd-cm).
-- It says what the conditions say, and nothing before the operator has seen the latest spec.
local hs = { status = "Progressing", message = "waiting for the operator" }

if obj.status == nil or obj.status.conditions == nil then
  return hs
end

local conditions = {}
for _, condition in ipairs(obj.status.conditions) do
  conditions[condition.type] = condition
end

local function is(type, status)
  return conditions[type] ~= nil and conditions[type].status == status
end

if is("Paused", "True") then
  hs.status = "Suspended"
  hs.message = conditions.Paused.message
  return hs
end

if obj.metadata.generation ~= nil and obj.status.observedGeneration ~= obj.metadata.generation then
  hs.message = "waiting for the operator to see the latest spec"
  return hs
end

if is("Stalled", "True") then
  hs.status = "Degraded"
  hs.message = conditions.Stalled.message
elseif is("Ready", "True") then
  hs.status = "Healthy"
  hs.message = conditions.Ready.message
elseif is("Reconciling", "True") then
  hs.message = conditions.Reconciling.message
elseif is("Ready", "False") then
  hs.status = "Degraded"
  hs.message = conditions.Ready.message
end

return hs
