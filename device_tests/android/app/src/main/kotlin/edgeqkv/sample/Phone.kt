package edgeqkv.sample

import android.app.ActivityManager
import android.content.Context
import android.os.Build
import android.os.Debug
import android.os.PowerManager
import edgeqkv.core.Device
import edgeqkv.core.Software

/** What Android says of this process and of the device that it runs on. */
class Phone(context: Context) {
    private val activities = context.getSystemService(ActivityManager::class.java)
    private val power = context.getSystemService(PowerManager::class.java)

    val system = Software("Android", Build.VERSION.RELEASE)
    val device: Device
        get() {
            val memory = ActivityManager.MemoryInfo()
            activities.getMemoryInfo(memory)
            return Device("${Build.MANUFACTURER} ${Build.MODEL}", Build.SOC_MODEL, memory.totalMem)
        }

    /** This process's memory, in bytes: allocated and mapped pages, shared ones by their share. */
    fun pssBytes(): Long {
        val info = Debug.MemoryInfo()
        Debug.getMemoryInfo(info)
        return info.totalPss * 1024L
    }

    fun thermalStatus(): String = when (val status = power.currentThermalStatus) {
        PowerManager.THERMAL_STATUS_NONE -> "THERMAL_STATUS_NONE"
        PowerManager.THERMAL_STATUS_LIGHT -> "THERMAL_STATUS_LIGHT"
        PowerManager.THERMAL_STATUS_MODERATE -> "THERMAL_STATUS_MODERATE"
        PowerManager.THERMAL_STATUS_SEVERE -> "THERMAL_STATUS_SEVERE"
        else -> "thermal status $status"
    }

    companion object {
        /** The name of `pssBytes` in a device report. */
        const val MEMORY_FIGURE = "Debug.MemoryInfo.totalPss"
    }
}
