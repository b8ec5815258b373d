package edgeqkv.core

import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObjectBuilder
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put
import kotlinx.serialization.json.putJsonObject

/** An app, a system or a runtime; [settings] says what is not the default. */
data class Software(val name: String, val version: String, val settings: String = "")

/** The device, as far as the system tells. */
data class Device(val name: String, val processor: String?, val ramBytes: Long?)

/** How warm the device was, in the system's own words. */
data class Thermal(val before: String, val after: String)

/** `device-report.json`; its schema is `device_tests/device-report.schema.json`. */
data class DeviceReport(
    val date: String,
    val app: Software,
    val device: Device,
    val system: Software,
    val runtime: Software,
    val manifestSha256: String,
    val target: String,
    val measurement: Measurement,
    val memoryFigure: String,
    val stateBytes: Long?,
    val thermal: Thermal?,
) {
    fun toJson(): String = buildJsonObject {
        put("format", FORMAT)
        put("date", date)
        put("app", app)
        putJsonObject("device") {
            put("name", device.name)
            put("processor", device.processor)
            put("ram_bytes", device.ramBytes)
        }
        put("system", system)
        put("runtime", runtime)
        put("manifest_sha256", manifestSha256)
        put("target", target)
        put("load_seconds", measurement.loadSeconds)
        put("prefill", measurement.outcome.prefill)
        put("decode", measurement.outcome.decode)
        put("state_bytes", stateBytes)
        putJsonObject("memory") {
            put("figure", memoryFigure)
            put("before_bytes", measurement.memoryBefore)
            putJsonObject("phases") {
                measurement.memoryPeaks.forEach { (phase, bytes) -> put(phase.name.lowercase(), bytes) }
            }
        }
        if (thermal == null) {
            put("thermal", JsonNull)
        } else {
            putJsonObject("thermal") {
                put("before", thermal.before)
                put("after", thermal.after)
            }
        }
    }.toString() + "\n"

    private companion object {
        const val FORMAT = 1

        fun JsonObjectBuilder.put(name: String, software: Software) = putJsonObject(name) {
            put("name", software.name)
            put("version", software.version)
            put("settings", software.settings)
        }

        fun JsonObjectBuilder.put(name: String, run: Run) = putJsonObject(name) {
            put("tokens", run.tokens)
            put("seconds", run.seconds)
        }
    }
}
