package edgeqkv.core

import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.long

internal val JsonElement?.fields: JsonObject
    get() = requireNotNull(this) { "a part is missing" }.jsonObject

internal fun JsonObject.text(name: String): String = getValue(name).jsonPrimitive.content

internal fun JsonObject.number(name: String): Long = getValue(name).jsonPrimitive.long
